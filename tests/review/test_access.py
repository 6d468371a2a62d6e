"""Nobody but the one browser on this machine comes in."""

from starlette.testclient import TestClient

from tests.support.reviews import HOME, PORT, client, session_of
from upweight.review.access import Keys


def test_nobody_else_comes_in(fitted):
    session = session_of(fitted)
    stranger = client(session, enter=False)
    for path in ("/", "/list", "/state", "/export", "/static/keys.js", "/?token=", "/?token=guess"):
        assert stranger.get(path).status_code == 403
    assert stranger.post("/decide", data={"row": 0, "action": "drop"}).status_code == 403
    assert stranger.get("/", headers={"cookie": f"upweight-{PORT}=guess"}).status_code == 403

    keys = Keys()
    token = keys.token
    browser = client(session, keys=keys)
    assert browser.get("/", headers={"host": f"evil.example:{PORT}"}).status_code == 403
    for origin in ("http://evil.example", f"http://127.0.0.1:{PORT + 1}", "null"):
        # No redirect is followed: the refusal must be that of the request itself.
        sent, data = {"origin": origin}, {"row": 0, "action": "drop"}
        answer = browser.post("/decide", data=data, headers=sent, follow_redirects=False)
        assert answer.status_code == 403
        assert not session.journal.decisions()
        assert browser.post("/undo", headers=sent, follow_redirects=False).status_code == 403
    del browser.headers["origin"]  # an address that is opened comes from no page, a decision always does
    assert browser.get("/state").status_code == 200
    assert browser.post("/decide", data={"row": 0, "action": "drop"}).status_code == 403
    assert not session.journal.decisions()

    # The token in the address has been used.
    again = TestClient(browser.app, base_url=HOME)
    assert again.get(f"/?token={token}").status_code == 403
    assert browser.get("/static/../session.py").status_code in (403, 404)
    assert browser.get("/static/%2e%2e/session.py").status_code == 404
    headers = browser.get("/").headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


def test_what_every_answer_says_to_the_browser(fitted):
    """No copy is kept anywhere, nothing is guessed, no other page learns the address: of refusals too."""
    browser = client(session_of(fitted))
    for answer in (
        browser.get("/"),
        browser.get("/list"),
        browser.get("/static/keys.js"),
        browser.get("/nowhere"),
    ):
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["x-content-type-options"] == "nosniff"
    stranger = client(session_of(fitted), enter=False).get("/")
    assert (stranger.status_code, stranger.headers["cache-control"]) == (403, "no-store")


def test_the_cookie_is_out_of_reach_of_scripts_and_other_pages(fitted):
    keys = Keys()
    token = keys.token
    app = client(session_of(fitted), keys=keys, enter=False).app
    answer = TestClient(app, base_url=HOME).get(f"/?token={token}", follow_redirects=False)
    said = answer.headers["set-cookie"].lower()
    assert answer.status_code == 303
    assert "httponly" in said
    assert "samesite=strict" in said
