"""What a device loads: the client without torch stays under 90 MB, and nothing heavy comes along unasked."""

import json
import subprocess
import sys

MEASURE = """
import json, sys
{imports}
status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
heavy = sorted({{"torch", "ray", "pandas", "sklearn", "scipy", "torchvision", "PIL", "matplotlib"}} & set(sys.modules))
print(json.dumps({{"heavy": heavy, "rss_mb": int(status["VmHWM"].split()[0]) / 1024}}))
"""


def load(*modules: str) -> dict[str, object]:
    code = MEASURE.format(imports="\n".join(f"import {module}" for module in modules))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_the_client_loads_without_torch_in_90_mb() -> None:
    got = load("client.__main__", "client.run", "client.samples", "fedlite.link.enrol")
    assert got["heavy"] == []
    assert float(str(got["rss_mb"])) < 90


def test_the_server_and_the_simulator_load_nothing_heavy_unasked() -> None:
    assert load("server.__main__", "server.serve", "server.manage")["heavy"] == []
    assert load("simulations.__main__")["heavy"] == []
