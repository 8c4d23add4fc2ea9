"""Login to a dashboard whose server has a token."""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from urllib.parse import quote

import httpx
import pytest

from bandit_server.dashboard.web import login
from tests.bandit_server.dashboard.serving import dashboard
from tests.launch import free_port

TOKEN = "a secret + token/of=theirs"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    # The login needs no server.
    with dashboard(f"127.0.0.1:{free_port()}", TOKEN) as served:
        yield served


@pytest.fixture
def browser(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=20) as opened:
        yield opened


def test_without_the_token_pages_redirect_to_the_form_and_all_else_is_refused(browser: httpx.Client) -> None:
    for path in ("/", "/runs/a.b-c", "/runs/r?x=time&hide=losses%2Fbandit+loss", "/compare?run=a&run=b"):
        response = browser.get(path)
        assert (response.status_code, response.headers["location"]) == (303, f"/login?next={quote(path, safe='')}")
    for method, path in [("GET", f"/{name}") for name in ("api/runs", "api/runs/r", "events/runs", "events/runs/r",
                         "api/openapi.json", "api/session", "events/compare?run=r",
                         "api/runs/r/export/pulls.csv", "metrics", "nowhere")] + [("POST", "/")]:  # fmt: skip
        response = browser.request(method, path)
        assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer"), path
        assert response.json()["detail"].startswith("log in at /login")
    assert browser.get("/healthz").status_code == 200
    assert browser.get("/static/css/dashboard.css").status_code == 200


def test_login_and_logout(browser: httpx.Client) -> None:
    form = browser.get("/login", params={"next": "/runs/r"})
    assert form.status_code == 200
    assert 'name="next" value="/runs/r"' in form.text
    assert "<script>" not in form.text
    entered = browser.post("/login", data={"token": f" {TOKEN}\n", "next": "/runs/r"})
    assert (entered.status_code, entered.headers["location"]) == (303, "/runs/r")
    cookie = entered.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Secure" not in cookie, "a browser would not send it back over plain HTTP"
    assert TOKEN not in cookie
    assert browser.get("/").status_code == 200
    assert browser.get("/api/session").json() == {"login": True, "acts": True}
    left = browser.post("/logout")
    assert (left.status_code, left.headers["location"]) == (303, "/login")
    assert browser.get("/").status_code == 303


def test_programs_send_the_token_itself(browser: httpx.Client) -> None:
    for token, status in ((TOKEN, 200), ("wrong", 401), (TOKEN[:-1], 401), ("ü", 401)):
        headers = {b"authorization": f"Bearer {token}".encode()}
        assert browser.get("/api/session", headers=headers).status_code == status


@pytest.mark.parametrize(
    "page",
    [
        "//elsewhere.example",
        "https://elsewhere.example",
        "/runs/../x",
        '"><script>',
        "",
        '/runs/r?"><script>',
        "/login?next=x",
        "/compare?run=a\n",
    ],
)
def test_a_login_redirects_to_our_own_pages_only(browser: httpx.Client, page: str) -> None:
    assert 'name="next" value="/"' in browser.get("/login", params={"next": page}).text
    assert browser.post("/login", data={"token": TOKEN, "next": page}).headers["location"] == "/"


def test_a_login_redirects_back_to_the_same_view(browser: httpx.Client) -> None:
    page = "/compare?run=a&run=b&x=time"
    form = browser.get("/login", params={"next": page})
    assert 'value="/compare?run=a&amp;run=b&amp;x=time"' in form.text
    assert browser.post("/login", data={"token": TOKEN, "next": page}).headers["location"] == page


def test_a_wrong_token_is_refused_and_not_repeated(browser: httpx.Client) -> None:
    response = browser.post("/login", data={"token": "<b>guess</b>"})
    assert response.status_code == 401
    assert "not the bandit server's token" in response.text
    assert "guess" not in response.text
    assert "set-cookie" not in response.headers
    for body in (b"\xff\xfe", b"a" * 10_000, b"&".join([b"a=b"] * 100), b""):
        assert browser.post("/login", content=body).status_code in (400, 401)


def test_forged_and_expired_cookies_are_refused(browser: httpx.Client) -> None:
    sessions = login.Sessions(TOKEN)
    good = sessions.create_cookie()
    value, time, signature = good.split(".")
    shifted = time[:-1] + ("A" if time[-1] != "A" else "B")
    # The last one is how cookies were signed before itsdangerous.
    bad = [f"{value}.{shifted}.{signature}", f"{value}.{signature}", signature, ".", "", "ü.ü.ü", good + "0",
           login.Sessions("another token").create_cookie(), f"9999999999.{'0' * 64}"]  # fmt: skip
    assert sessions.is_valid(good)
    assert not login.Sessions(TOKEN, seconds=-1).is_valid(good), "it has expired"
    assert [cookie for cookie in bad if sessions.is_valid(cookie)] == []
    assert browser.get("/api/session", headers={"cookie": f"optima-session={good}"}).status_code == 200
    for cookie in bad:
        headers = {b"cookie": f"optima-session={cookie}".encode("latin-1")}
        assert browser.get("/api/session", headers=headers).status_code == 401


def test_cookies_outlive_the_process_and_end_with_the_token() -> None:
    cookie = login.Sessions(TOKEN).create_cookie()
    assert login.Sessions(TOKEN).is_valid(cookie)
    assert not login.Sessions("a new token").is_valid(cookie)


def test_the_token_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare_digest(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return a == b

    monkeypatch.setattr(hmac, "compare_digest", compare_digest)
    assert login.Sessions(TOKEN).is_token(TOKEN)
    assert not login.Sessions(TOKEN).is_token("x")
    assert len(compared) == 2


def test_without_a_token_everybody_may_look() -> None:
    with dashboard(f"127.0.0.1:{free_port()}") as url:
        assert httpx.get(url, timeout=20).status_code == 200
        assert httpx.get(f"{url}/api/session", timeout=20).json() == {"login": False, "acts": True}
        assert httpx.get(f"{url}/login", timeout=20).status_code == 404
