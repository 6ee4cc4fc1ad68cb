"""Named streams: stable across processes and versions, independent of each other."""

import hashlib

from fedlite.seeds import derive, derive_each, generator


def test_a_stream_is_the_hash_of_its_labels() -> None:
    text = b"".join(len(part).to_bytes(4, "big") + part for part in (b"int:7", b"str:client", b"int:3"))
    want = int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1
    assert derive(7, "client", 3) == want


def test_a_cohort_has_the_seeds_that_each_would_have() -> None:
    names = [0, 1, "1", 2**62, "ü"]
    assert derive_each(names, before=(7, "client")).tolist() == [derive(7, "client", name) for name in names]
    assert derive_each([5, 6], after=("batches", 1)).tolist() == [
        derive(seed, "batches", 1) for seed in (5, 6)
    ]
    assert derive_each([], after=("batches", 1)).tolist() == []


def test_labels_do_not_run_together() -> None:
    seeds = {
        derive(0, "ab", "c"),
        derive(0, "a", "bc"),
        derive(0, "abc"),
        derive(0, "1"),
        derive(0, 1),
        derive(1),
    }
    assert len(seeds) == 6


def test_seeds_are_63_bits() -> None:
    assert all(0 <= derive(seed, "x") < 2**63 for seed in range(1000))


def test_generators_of_one_name_agree() -> None:
    assert generator(5, "a").integers(1 << 60) == generator(5, "a").integers(1 << 60)
