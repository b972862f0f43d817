"""Control's HTTP API, as an operator or an app's owner uses it."""

import dataclasses

import httpx


class Problem(Exception):
    """An answer that is no success; `code` is the published name."""

    def __init__(self, response: httpx.Response):
        super().__init__(f"{response.request.method} {response.request.url}: {response.status_code} {response.text}")
        self.status = response.status_code
        self.code = response.json().get("code")


class Control:
    """Control with one bearer."""

    def __init__(self, url: str, token: str | None):
        self.url = url
        self.token = token
        self.http = httpx.Client(base_url=url, timeout=10, trust_env=False)

    def bare(self, method: str, path: str, **more) -> httpx.Response:
        headers = dict(more.pop("headers", {}))
        if self.token is not None:
            headers.setdefault("authorization", f"Bearer {self.token}")
        return self.http.request(method, path, headers=headers, **more)

    def call(self, method: str, path: str, body=None):
        response = self.bare(method, path, json=body) if body is not None else self.bare(method, path)
        if not response.is_success:
            raise Problem(response)
        return response.json() if response.content else None

    def items(self, path: str) -> list[dict]:
        """A whole list, page by page."""
        found, token = [], None
        while True:
            page = self.call("GET", path + (f"?page_token={token}" if token else ""))
            found += page["items"]
            token = page.get("next_page_token")
            if not token:
                return found

    def create_app(self, name: str, **settings) -> "App":
        settings.setdefault("proof", {"hmac": True, "jwt": True, "open": True})
        made = self.call("POST", "/v1/apps", {"app": name} | settings)
        return App(self, name, made["owner_key"], made["client_secret"], made)


@dataclasses.dataclass
class App:
    """An app that the suite made."""

    control: Control
    name: str
    owner_key: str
    client_secret: str
    made: dict

    @property
    def path(self) -> str:
        return f"/v1/apps/{self.name}"

    def as_owner(self) -> Control:
        return Control(self.control.url, self.owner_key)

    def create_business(self, name: str, endpoints=(), **settings) -> dict:
        body = {"business": name, "endpoints": list(endpoints)} | settings
        return self.control.call("POST", f"{self.path}/businesses", body)

    def create_key(self, business: str, *scopes: str, **more) -> dict:
        body = ({"scopes": list(scopes)} if scopes else {}) | more
        return self.control.call("POST", f"{self.path}/businesses/{business}/keys", body)

    def revoke(self, device: str | None = None) -> dict:
        return self.control.call("POST", f"{self.path}/revocations", {"device": device} if device else {})
