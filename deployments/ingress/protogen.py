"""Generates the gRPC stubs from serving.proto: ``python -m deployments.ingress.protogen``. Needs grpcio-tools."""

import sys
from pathlib import Path

from cluster.errors import ConfigError

ROOT = Path(__file__).parents[2]
PROTO = "deployments/ingress/serving.proto"
STUBS = ("serving_pb2.py", "serving_pb2.pyi", "serving_pb2_grpc.py")


def generate(target: Path) -> None:
    """Write the stubs under ``target``, in the package's folders. Raises ConfigError if the compiler refuses."""
    from grpc_tools import protoc  # type: ignore[import-untyped]  # ships no types

    out = str(target)
    code = protoc.main(
        ["protoc", f"-I{ROOT}", f"--python_out={out}", f"--pyi_out={out}", f"--grpc_python_out={out}", PROTO]
    )
    if code != 0:
        raise ConfigError(f"protoc ended with {code}")
    types = target / "deployments/ingress/serving_pb2.pyi"
    types.write_text("# mypy: ignore-errors\n" + types.read_text(encoding="utf-8"), encoding="utf-8")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
