"""The panel says what is going on; without a terminal there are lines, few and plain."""

from __future__ import annotations

import io
import math
import sys
import threading

import pytest
from rich.console import Console

from mcurl.run.display import Display, _number, sparkline
from mcurl.run.eta import Speed
from mcurl.run.status import StatusLine, format_duration


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def plain(clock: Clock, total: int = 1000) -> tuple[Display, io.StringIO]:
    out = io.StringIO()
    return Display(
        total,
        "mcurl · toy/reach · seed 1",
        "runs/x",
        console=Console(file=out, width=80),
        every=30,
        tick=0,
        clock=clock,
    ), out


def live(clock: Clock, width: int = 100, total: int = 1000) -> tuple[Display, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, width=width, height=40, force_terminal=True, color_system=None)
    return Display(total, "mcurl · toy/[reach] · seed 1", "runs/x", console=console, tick=0, clock=clock), out


def train(display: Display, clock: Clock) -> None:
    for step in range(0, 501, 10):
        clock.now += 1
        display.update(
            step, {"critic/loss": 0.5, "contrast/loss": math.nan} if step % 100 == 0 else None, updates=step // 2
        )
        if step % 100 == 0:
            display.episode(step / 2)
        if step % 250 == 0:
            display.evaluation(step, [step, step + 2.0])


def test_lines_where_there_is_no_terminal(clock: Clock) -> None:
    display, out = plain(clock)
    with display:
        display.message("a message")
        train(display, clock)
    lines = out.getvalue().splitlines()
    assert "\x1b" not in out.getvalue()
    assert lines[0] == "mcurl · toy/reach · seed 1 · 1,000 env steps · runs/x"
    assert lines[1] == "a message"
    assert lines[2] == "evaluation  1.0 ± 1.0 at 0 · 2 episodes · best 1.0 at 0"
    assert "evaluation  501.0 ± 1.0 at 500 · 2 episodes · best 501.0 at 500" in lines
    progress = [line for line in lines if line.startswith("env steps")]
    assert len(progress) == 2  # One after 30 of the 51 seconds, one at the end.
    assert progress[-1] == (
        "env steps   500/1,000 (50%) · return 125.0 · critic/loss 0.5 · contrast/loss nan · 10.0 env steps/s · "
        "5.0 updates/s · 0:50 left"
    )


def test_nothing_is_shown_before_there_is_something(clock: Clock) -> None:
    for display, out in (plain(clock), live(clock)):
        with pytest.raises(RuntimeError), display:
            raise RuntimeError
        assert out.getvalue() == ""


def test_a_panel_on_a_terminal(clock: Clock) -> None:
    display, out = live(clock)
    with display:
        train(display, clock)
        display.status("evaluating, 3 of 10")
        during = out.getvalue()
        display.evaluation(500, [7.0])
        display.message("a message [that] stays")
    assert "evaluating, 3 of 10…" in during
    last = out.getvalue()[out.getvalue().rindex("╭") :]
    results = ["250.0", "mean of last 6: 125.0", "7.0 ± 0.0 at 500", "best 501.0 at 500", "critic/loss", "nan"]
    for text in [
        "toy/[reach]",
        "runs/x",
        "500 / 1,000 env steps",
        "50%",
        *results,
        "10.0 env steps/s · 5.0 updates/s",
        "0:50 left",
        "0:51 elapsed",
    ]:
        assert text in last, text
    assert "evaluating" not in last
    assert "a message [that] stays" in out.getvalue()
    assert out.getvalue().count("\x1b[?25l") == out.getvalue().count("\x1b[?25h") == 1  # The cursor comes back.


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_any_width(clock: Clock, width: int) -> None:
    display, out = live(clock, width)
    with display:
        train(display, clock)
    last = out.getvalue()[out.getvalue().rindex("╭") :].splitlines()
    assert all(len(line.replace("\x1b[?25h", "")) <= min(width, 100) for line in last)


def test_an_extended_run_may_pass_its_budget(clock: Clock) -> None:
    display, out = live(clock, total=100)
    with display:
        train(display, clock)
    assert "500 / 100 env steps" in out.getvalue()
    assert "done" in out.getvalue()


def test_a_dumb_terminal_gets_lines(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    display, out = live(clock)
    with display:
        train(display, clock)
    assert "╭" not in out.getvalue()


def test_refreshes_are_rare(clock: Clock) -> None:
    display, out = live(clock)
    with display:
        for step in range(1000):
            clock.now += 0.001
            display.update(step)
    assert out.getvalue().count("╭") <= 8


def test_earlier_evaluations_count_for_the_best(clock: Clock) -> None:
    display, out = plain(clock)
    with display:
        display.load_evaluations({10: [9.0, 11.0], 20: [1.0]})
        assert out.getvalue() == ""
        display.evaluation(30, [3.0])
    assert "3.0 ± 0.0 at 30 · 1 episodes · best 10.0 at 10" in out.getvalue()


def test_speed_looks_back_one_window(clock: Clock) -> None:
    speed = Speed(10, clock)
    assert speed.rate is None
    for second in range(100):
        clock.now += 1
        speed.update(second if second < 50 else 50 + (second - 50) * 4)
    assert speed.rate == pytest.approx(4)
    clock.now += 1
    speed.update(0)  # A decreased counter has no rate.
    assert speed.rate is None


def test_speed_keeps_few_points(clock: Clock) -> None:
    speed = Speed(300, clock)
    for step in range(20_000):
        clock.now += 0.01
        speed.update(step)
    assert speed.rate == pytest.approx(100)
    assert len(speed.points) < 120


def test_small_parts() -> None:
    assert sparkline([1, 2, 4, math.nan]) == "▁▃█"
    assert sparkline([1]) == sparkline([]) == ""
    assert sparkline([2, 2]) == "▁▁"
    assert [format_duration(seconds) for seconds in (0, 59, 3700, 200_000)] == ["0:00", "0:59", "1:01:40", "2 d 7 h"]
    assert [_number(value) for value in (0.00012345, 12345.6, math.inf, -3.0)] == ["0.0001234", "12,346", "inf", "-3"]


class Gone(io.StringIO):
    """A terminal that went away, or a pipe that nobody reads."""

    refused = False

    def write(self, text: str) -> int:
        self.refused = True
        raise BrokenPipeError


@pytest.mark.parametrize("terminal", [False, True])
def test_nobody_reads_and_returns_that_are_no_numbers(
    clock: Clock, terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = Gone()
    monkeypatch.setattr(sys, "stdout", gone)
    monkeypatch.setattr(gone, "isatty", lambda: terminal)
    monkeypatch.setenv("TERM", "xterm")
    display = Display(1000, "title", tick=0, clock=clock)
    assert (display._live is not None) == terminal
    with display:
        display.message("begun")
        train(display, clock)
        display.load_evaluations({0: [math.nan, 1.0]})
        display.evaluation(500, [math.nan, math.inf])
    assert gone.refused
    assert all(math.isnan(spread) for _, _, spread in display.evaluations[-2:])
    assert display.env_steps == 500


def test_an_evaluation_is_visible(clock: Clock) -> None:
    """On a panel at once, in lines every half minute; the clock ticks while nothing else happens."""
    for make in (plain, live):
        display, out = make(clock)
        with display:
            display.evaluating(0, 0, 10)
            clock.now += 31
            display.tick()
            display.evaluating(0, 3, 10)
            clock.now += 31
            display.tick()
            clock.now += 29
            display.tick()
            said = out.getvalue()
            assert "evaluating, 3 of 10" in said
            if make is plain:
                assert [line for line in said.splitlines() if line.startswith("env steps")] == [
                    "env steps   0/1,000 (0%) · evaluating, 0 of 10 · time left unknown",
                    "env steps   0/1,000 (0%) · evaluating, 3 of 10 · time left unknown",
                ]
            else:
                assert "0:31 elapsed" in said
                assert "1:31 elapsed" in said
            display.evaluation(0, [1.0])
            assert display.activity == ""


def test_the_clock_ticks_in_a_thread() -> None:
    out = io.StringIO()
    ticked = threading.Event()

    class Watched(Display):
        def tick(self) -> None:
            super().tick()
            ticked.set()

    console = Console(file=out, width=100, height=40, force_terminal=True, color_system=None)
    with Watched(1000, "title", console=console, tick=0.01) as display:
        display.message("begun")
        assert ticked.wait(10)
    threads = threading.active_count()
    ticked.clear()
    assert not ticked.wait(0.05)
    assert threading.active_count() == threads


def test_without_a_terminal_the_clock_leaves_the_first_line_to_the_run(clock: Clock) -> None:
    display, out = plain(clock)
    with display:
        clock.now += 29
        display.tick()
        assert out.getvalue() == ""
        clock.now += 2
        display.tick()
        assert out.getvalue().splitlines()[1] == "env steps   0/1,000 (0%) · time left unknown"


def test_what_other_commands_do_is_said_now_and_then(clock: Clock) -> None:
    out = io.StringIO()
    with StatusLine("evaluating", console=Console(file=out), tick=0, clock=clock) as status:
        for finished in range(101):
            status.update(finished, 100)
            clock.now += 1
    assert out.getvalue().splitlines() == [
        "evaluating, 30 of 100 · 0:30 elapsed · 1:10 left",
        "evaluating, 60 of 100 · 1:00 elapsed · 0:40 left",
        "evaluating, 90 of 100 · 1:30 elapsed · 0:10 left",
    ]


def test_on_a_terminal_it_is_one_line_that_disappears(clock: Clock) -> None:
    out = io.StringIO()
    with StatusLine("timing", console=Console(file=out, force_terminal=True), tick=0, clock=clock) as status:
        clock.now += 5
        status.tick()
    assert "timing · 0:00 elapsed" in out.getvalue()
    assert "timing · 0:05 elapsed" in out.getvalue()
    assert out.getvalue().endswith("\x1b[2K")
