"""Message classes, made by protoc when the suite runs: those of the wire from the text in WIRE.md, those
of the APIs from the published definitions."""

import atexit
import importlib
import pathlib
import shutil
import sys
import tempfile

import grpc_tools
from grpc_tools import protoc

from . import page

_FOLDER = pathlib.Path(tempfile.mkdtemp(prefix="hawser-stubs-"))
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)


def _compile() -> None:
    (_FOLDER / "wire.proto").write_text(page.definitions(), encoding="utf-8")
    published = page.ROOT / "proto" / "rpc"
    for name in ("push", "business", "control"):
        text = (published / f"{name}.proto").read_text(encoding="utf-8")
        (_FOLDER / f"{name}.proto").write_text(text, encoding="utf-8")
    include = pathlib.Path(grpc_tools.__file__).parent / "_proto"
    files = [str(path) for path in sorted(_FOLDER.glob("*.proto"))]
    arguments = ["protoc", f"-I{_FOLDER}", f"-I{include}", f"--python_out={_FOLDER}", f"--grpc_python_out={_FOLDER}"]
    if protoc.main(arguments + files) != 0:
        raise RuntimeError("protoc does not take the definitions")
    sys.path.insert(0, str(_FOLDER))


_compile()
wire = importlib.import_module("wire_pb2")
push = importlib.import_module("push_pb2")
push_grpc = importlib.import_module("push_pb2_grpc")
business = importlib.import_module("business_pb2")
business_grpc = importlib.import_module("business_pb2_grpc")
control = importlib.import_module("control_pb2")
control_grpc = importlib.import_module("control_pb2_grpc")
