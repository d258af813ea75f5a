"""What is committed of the wire is what its description says."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DESCRIBED = ROOT / "proto" / "tocsin" / "v1" / "agent.proto"
GENERATED = ("agent_pb2.py", "agent_pb2.pyi")


def test_the_generated_code_is_up_to_date(tmp_path: Path) -> None:
    options = ["-I", str(ROOT / "proto"), f"--python_out={tmp_path}", f"--pyi_out={tmp_path}"]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *options, str(DESCRIBED)], check=True)
    for name in GENERATED:
        fresh = (tmp_path / "tocsin" / "v1" / name).read_text()
        assert fresh == (ROOT / "src" / "tocsin" / "v1" / name).read_text(), f"{name}: python3 dev.py proto"
