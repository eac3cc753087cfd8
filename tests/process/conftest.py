import pytest

from chord_server import Chord


@pytest.fixture(scope="module")
def chord():
    """One Chord for a whole file; every test of the file leaves it healthy."""
    with Chord() as server:
        yield server


@pytest.fixture(autouse=True)
def still_works(request):
    """Whatever a test did, the next good request succeeds."""
    yield
    if "chord" in request.fixturenames:
        from chord_server import demo, iou
        chord = request.getfixturevalue("chord")
        image, prompt, boxes = next(d for d in demo() if len(d[2]) == 1)
        answer = chord.post(image, prompt)
        assert answer.status == 200, f"{answer.body}\n{chord.read_log()[-4000:]}"
        assert iou(answer.json["boxes"][0], boxes[0]) > 0.7
