"""A business's backend: a gRPC server that answers requests, and the push API with a business key."""

import queue
from concurrent import futures

import grpc

from hawser_wire import messages, page
from house import until

business = messages.business
push = messages.push

ALL_SCOPES = ("push", "group", "presence", "admin")
CALL_SECONDS = 15


class Backend(messages.business_grpc.BusinessServicer):
    """Answers by method name; every call it saw is in `calls`."""

    def __init__(self):
        self.calls: queue.Queue = queue.Queue()
        self.methods = {}
        self.server = grpc.server(futures.ThreadPoolExecutor(max_workers=96))
        messages.business_grpc.add_BusinessServicer_to_server(self, self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def method(self, answer):
        """Registers a function of (request, context) under its name."""
        self.methods[answer.__name__] = answer
        return answer

    def Handle(self, request, context):  # noqa: N802, the name in the .proto file
        self.calls.put(request)
        return self.methods[request.method](request, context)

    def next_call(self, seconds: float = 10):
        return self.calls.get(timeout=seconds)

    def stop(self) -> None:
        self.server.stop(None)


def usual_backend() -> Backend:
    """The business server of most tests."""
    backend = Backend()

    @backend.method
    def echo(request, context):
        return business.HandleResponse(body=request.body, metadata=dict(request.metadata))

    @backend.method
    def count(request, context):
        """Counts in the session, under the key that the body names."""
        key = request.body.decode()
        seen = int(request.session.attributes.get(key, "0"))
        return business.HandleResponse(body=str(seen).encode(), set_attributes={key: str(seen + 1)})

    @backend.method
    def forget(request, context):
        return business.HandleResponse(remove_attributes=[request.body.decode()])

    @backend.method
    def attributes(request, context):
        return business.HandleResponse(metadata=dict(request.session.attributes))

    @backend.method
    def fail(request, context):
        context.abort(getattr(grpc.StatusCode, request.body.decode()), "as you wished")

    @backend.method
    def sleep(request, context):
        """Sleeps for so many ms, or until nobody waits any more."""
        gone = futures.Future()
        context.add_callback(lambda: gone.set_result(None))
        try:
            gone.result(int(request.body) / 1000)
        except futures.TimeoutError:
            pass
        return business.HandleResponse(body=b"slept")

    @backend.method
    def large(request, context):
        return business.HandleResponse(body=b"x" * int(request.body))

    @backend.method
    def too_many_attributes(request, context):
        return business.HandleResponse(set_attributes={f"k{n}": "v" * 100 for n in range(100)})

    return backend


class PushError(Exception):
    """The push API refused; `code` is the published name in `hawser-code`."""

    def __init__(self, failure: grpc.RpcError):
        super().__init__(f"{failure.code()} {failure.details()}")
        self.status = failure.code().value[0]
        trailing = dict(failure.trailing_metadata() or ())
        self.code = trailing.get("hawser-code")
        if self.code is not None:
            assert page.GRPC_STATUS[self.code] == self.status, f"{self.code} is sent as {failure.code()}"


class PushApi:
    """hawser.push.v1 with a key. A method of the service is called by its name, with the fields of its
    request: `api.Unicast(device="d", message=text("hello"))`."""

    def __init__(self, address: str, key: str | None, metadata: tuple | None = None):
        # A connection of its own: what one caller does to its connection is not another's affair.
        options = [("grpc.use_local_subchannel_pool", 1)]
        self.channel = grpc.insecure_channel(address.removeprefix("http://"), options)
        self.stub = messages.push_grpc.PushStub(self.channel)
        shown = () if key is None else (("authorization", f"Bearer {key}"),)
        self.metadata = shown if metadata is None else metadata

    def __getattr__(self, name: str):
        method = push.DESCRIPTOR.services_by_name["Push"].methods_by_name[name]
        request = getattr(push, method.input_type.name)

        def call(seconds: float = CALL_SECONDS, **fields):
            try:
                answer = getattr(self.stub, name)(request(**fields), metadata=self.metadata, timeout=seconds)
                return list(answer) if method.server_streaming else answer
            except grpc.RpcError as failure:
                raise PushError(failure) from failure

        return call

    def store(self, device: str, body: str | bytes, push_id: bytes = b"", **options):
        """A stored push to one device; `options` are those of StoreOptions."""
        fields = {"device": device, "message": text(body), "push_id": push_id, "class": push.CLASS_STORED}
        return self.Unicast(seconds=CALL_SECONDS + 10, store=push.StoreOptions(**options), **fields)

    def stream(self, requests, seconds: float = CALL_SECONDS):
        """StreamUnicast, answer by answer."""
        try:
            yield from self.stub.StreamUnicast(iter(requests), metadata=self.metadata, timeout=seconds)
        except grpc.RpcError as failure:
            raise PushError(failure) from failure

    def until_known(self) -> "PushApi":
        """Waits until the router knows the key."""

        def known():
            try:
                self.ListGroups()
                return True
            except PushError as failure:
                if failure.code == "permission_denied":
                    return True
                assert failure.code == "unauthenticated", failure
                return False

        until(known, 10, "the router to know a new key")
        return self

    def close(self) -> None:
        self.channel.close()


def text(body: str | bytes, **metadata: str):
    """A message."""
    return push.Message(body=body.encode() if isinstance(body, str) else body, metadata=metadata)


def place(stored) -> tuple:
    """The position in a StoredResult."""
    return stored.term, stored.seq


def tail(info) -> tuple:
    return info.tail_term, info.tail_seq


def floor(info) -> tuple:
    return info.floor_term, info.floor_seq


def outcome(number: int) -> str:
    return push.Outcome.Name(number).removeprefix("OUTCOME_").lower()
