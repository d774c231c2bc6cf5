import pytest

import models.data.track
from models.data.track import track


def test_tracked_values_pass_unchanged_and_in_silence_when_it_is_fast(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track("abc", "Letters", total=3)) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")


def test_a_log_file_gets_lines_instead_of_a_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models.data.track, "SECONDS_BETWEEN_LINES", 0.0)
    seen = list(track(range(4), "Bytes", total=400, done=iter([100, 400]).__next__, every=2))
    assert seen == [0, 1, 2, 3]
    assert capsys.readouterr() == ("", "Bytes: 25%\nBytes: 100%\n")
