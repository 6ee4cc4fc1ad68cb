"""A join server on a free port, with a fleet of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.link.enrol.join_site import Site, new_site


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Site]:
    """A site that does not listen yet."""
    site = new_site(tmp_path / "server")
    yield site
    site.fleet.close()


@pytest.fixture
def site(closed: Site) -> Iterator[Site]:
    """A site that listens."""
    with closed.serving(timeout_seconds=5.0):
        yield closed
