"""The web page's files over HTTP: types, caching, policy. What the page does is tested in tests/browser."""

import re


def test_the_page_and_what_it_names_is_served_with_its_policy(chord):
    page = chord.get("/")
    assert page.status == 200 and page.headers["Content-Type"] == "text/html; charset=utf-8"
    named = re.findall(r'(?:src|href)="([^"#]+)"', page.body.decode())
    assert {"app.js", "icon.svg", "css/base.css"} <= set(named)
    for name in ["", *named]:
        answer = chord.get(f"/{name}")
        assert answer.status == 200, name
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


def test_a_file_that_has_not_changed_is_not_sent_again(chord):
    first = chord.get("/app.js")
    again = chord.request("GET", "/app.js", headers={"If-None-Match": first.headers["ETag"]})
    assert again.status == 304 and again.body == b""
    assert "Content-Type" not in again.headers and "Content-Length" not in again.headers
    assert again.headers["ETag"] == first.headers["ETag"]
    other = chord.request("GET", "/app.js", headers={"If-None-Match": '"other"'})
    assert other.status == 200 and other.body == first.body


def test_the_page_learns_what_this_server_takes(chord):
    config = chord.get("/page.json").json
    assert config["model"] == "chord-nano"
    assert config["grpc_address"] == chord.grpc_address
    assert config["limits"] == {"image_bytes": 20 << 20, "image_pixels": 8192 * 6144, "prompt_bytes": 4096}
    assert config["thresholds"] == {"review": 0.7, "advice": 0.75}
