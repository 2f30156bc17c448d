"""Halt, interlocks and arming: what may move or shine now, and the way to stop everything that waits behind nothing.

A halt takes no lock that a frame, a move, a volume or a hung adapter may hold: it sets a flag, then stops every axis and
switches every light off, each in a thread of its own. Whoever opens a gate or starts a move looks at the flag before and
after (`permit_light`, `permit_motion`), so that nothing slips through between the flag and the stopping.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType

from ..config import Scope
from ..layout import Layout
from ._arming import ArmedFile
from ._errors import DisarmedError, HaltedError, HardwareError, InterlockError, LimitError, NotAllowedError
from ._interlocks import Interlocks, words
from ._latch import LatchFile, log_safety, report_file
from ._safety_state import HaltReport, HaltStep, InterlockState, Latch, SafetyState

log = logging.getLogger("queuescope.hardware")

ANSWER_S = 1.0
"""An adapter that has not stopped or gone dark by then hangs."""

WATCH_S = 0.05

Steps = Mapping[str, Callable[[], object]]


class Safety:
    """What one process knows of its microscope's safety. No method waits for a lock that is held during hardware calls."""

    def __init__(self, scope: Scope, layout: Layout, die: Callable[[], None] | None) -> None:
        """``die`` ends the process hard, where that switches lights off (a supervisor restarts it); None where it doesn't."""
        self._scope, self._layout, self._die = scope, layout, die
        self._halt_file, self._interlock_file = LatchFile.halt(layout), LatchFile.interlock(layout)
        self._halted, self._interlock = self._halt_file.read(), self._interlock_file.read()
        self._on_disk = self._halted is not None
        self._armed_file = ArmedFile(layout)
        self._armed = None  # also for what the process before this one left on disk
        self._setting = threading.Lock()  # held for assignments only
        self._interlocks: Interlocks | None = None
        self._motion: Steps = {}
        self._lights: Steps = {}
        self._locks: Steps = {}
        self._told: Callable[[str], None] = lambda why: None
        self._was_open = False
        self._end = threading.Event()
        self._watched = False

    @property
    def _armed(self) -> tuple[float, str] | None:
        """Until when, and who armed."""
        return self._armed_now

    @_armed.setter
    def _armed(self, armed: tuple[float, str] | None) -> None:
        self._armed_now = armed
        self._armed_file.write(None if armed is None else armed[0])

    def watch(
        self,
        motion: Steps,
        lights: Steps,
        told: Callable[[str], None],
        interlocks: Interlocks,
        locks: Steps = MappingProxyType({}),
    ) -> None:
        """Begin to look at the interlocks, the latch file and the time.

        Parameters
        ----------
        motion, lights
            By name: stops a device, switches a light's gate and emission off. Without locks; an error is what it raises.
        told
            Ends what runs (a volume), with the reason; doesn't wait.
        locks
            By name: releases a focus lock, at a halt and when an interlock opens.
        """
        self._motion, self._lights, self._told, self._interlocks = {**motion, **locks}, lights, told, interlocks
        self._locks = locks
        interlocks.start()
        if not self._watched:
            self._watched = True
            threading.Thread(target=self._watch, name="safety", daemon=True).start()

    def let_go(self, answer: Callable[[], object]) -> None:
        """The hardware is somebody else's until `watch`: a halt latches, and its one step is ``answer``, which raises."""
        if self._interlocks is not None:
            self._interlocks.close()
        self._interlocks, self._motion, self._lights = None, {}, {"released": answer}
        self._locks = {}
        self._told, self._was_open = lambda why: None, False

    def close(self) -> None:
        self._end.set()
        if self._interlocks is not None:
            self._interlocks.close()

    # ------------------------------------------------------------------ what is permitted

    def permit_motion(self) -> None:
        """Raises `HaltedError` while halted."""
        latch = self._halted
        if latch is not None:
            raise HaltedError(
                f"halted by {latch.by} at {latch.clock}: {latch.reason}; an operator must rearm"
                " (POST /api/scope/rearm, queuescope rearm)",
                thing="halt",
                by=latch.by,
                reason=latch.reason,
                at=latch.at,
            )

    def permit_lock(self) -> None:
        """Raises `HaltedError` or `InterlockError` while no focus lock may be engaged."""
        self.permit_motion()
        self._permit_closed("a focus lock")

    def permit_light(self) -> None:
        """Raises `HaltedError`, `InterlockError` or `DisarmedError` while no light may be on."""
        self.permit_motion()
        self._permit_closed("light")
        if self._scope.safety.arm != "none":
            armed = self._armed
            if armed is None or armed[0] <= time.time():
                raise DisarmedError(
                    "light is refused: the microscope is not armed (scope file: safety.arm); an operator must arm it"
                    " (POST /api/scope/arm)",
                    thing="arm",
                )

    def _permit_closed(self, what: str) -> None:
        latch = self._interlock
        if latch is not None:
            raise InterlockError(
                f"{what} is refused since {latch.clock}: {latch.reason}; an operator must close it and rearm"
                " (POST /api/scope/rearm, queuescope rearm)",
                thing=latch.by,
                at=latch.at,
            )
        for name, state in self._opened().items():
            raise InterlockError(f"{what} is refused: {words(name, state)}: close it", thing=name, value=state.value)

    def refuse_interlock(self, device: str) -> None:
        """Nobody closes an interlock by writing to it."""
        if any(entry.device == device for entry in self._scope.safety.interlocks):
            raise NotAllowedError(f"{device} is an interlock: it is read, never written", thing=device)

    def explain(self, error: HardwareError) -> HardwareError:
        """The error of a call that moves or shines, or the halt or interlock that made it fail."""
        if isinstance(error, HaltedError | InterlockError | DisarmedError):
            return error
        try:
            self.permit_motion()
            if self._interlock is not None or self._opened():
                self.permit_light()
        except HardwareError as cause:
            return type(cause)(f"{cause} ({error})", **cause.fields)
        return error

    def state(self) -> SafetyState:
        armed = self._armed
        return SafetyState(
            halted=self._halted,
            interlock=self._interlock,
            interlocks={} if self._interlocks is None else self._interlocks.state(),
            arming=self._scope.safety.arm != "none",
            armed_until=armed[0] if armed else None,
            armed_by=armed[1] if armed else None,
        )

    # ------------------------------------------------------------------ what people do

    def halt(self, reason: str, by: str, at: float | None = None) -> HaltReport:
        """Stop every axis, switch every light and emission off, end what runs, and latch.

        Returns when all have answered, or after `ANSWER_S`; then the process ends itself, where that helps. A second halt does
        it all again; the first one's reason stays.
        """
        began = time.perf_counter()
        with self._setting:
            first = self._halted is None
            latch = self._halted or Latch(by=by, reason=reason, at=at or time.time())
            self._halted, self._armed = latch, None
        outcomes = _Outcomes({**self._lights, **self._motion})
        self._told(f"halted by {latch.by}: {latch.reason}")
        self._keep(self._halt_file, latch)
        self._on_disk = True
        steps = outcomes.wait(ANSWER_S)
        seconds = time.perf_counter() - began
        hung = [step.name for step in steps if step.error == NO_ANSWER]
        killed = bool(hung) and self._die is not None
        log.error("halted by %s: %s (%.0f ms)%s", by, reason, 1000 * seconds, f"; no answer: {hung}" if hung else "")
        log_safety(
            self._layout, "halt" if first else "halt again", by=by, reason=reason, seconds=seconds, no_answer=hung
        )
        report = HaltReport(halted=latch, steps=steps, seconds=seconds, killed=killed)
        with contextlib.suppress(OSError):
            draft = report_file(self._layout).with_suffix(".draft")
            draft.write_text(report.model_dump_json(), encoding="utf-8")
            draft.replace(report_file(self._layout))
        if killed and self._die is not None:
            self._die()
        else:
            self._halt_file.make_durable()
        return report

    def rearm(self, by: str) -> SafetyState:
        """Clear the latches of halt and interlocks. Arms nothing.

        Raises
        ------
        InterlockError
            Where an interlock is open still.
        """
        for name, state in self._opened().items():
            raise InterlockError(f"can't rearm: {words(name, state)}: close it first", thing=name, value=state.value)
        with self._setting:
            self._on_disk = False
            self._halt_file.clear()
            self._interlock_file.clear()
            self._halted = self._interlock = None
        log_safety(self._layout, "rearm", by=by)
        return self.state()

    def arm(self, until: float | None, by: str) -> SafetyState:
        """Permit light until then (seconds since the epoch); None disarms.

        Raises
        ------
        NotAllowedError
            Where the scope asks for no arming.
        LimitError
            Where ``until`` is past, or further away than the scope's ``safety.arm.hours``.
        HaltedError, InterlockError
            While one of them keeps the lights off.
        """
        arming = self._scope.safety.arm
        if arming == "none":
            raise NotAllowedError("nothing to arm: the scope file says safety.arm: none", thing="arm")
        if until is None:
            self.disarm(by)
            return self.state()
        now = time.time()
        if not math.isfinite(until) or not now < until <= now + 3600 * arming.hours:
            raise LimitError(
                f"until {until} is not within the next {arming.hours:g} h (scope file: safety.arm.hours), now is {now:.0f}",
                thing="until",
                value=repr(until),
                limit=[now, now + 3600 * arming.hours],
            )
        self.permit_motion()
        with self._setting:
            self._armed = (until, by)
        try:
            self.permit_light()
        except HardwareError:
            self._armed = None
            raise
        log_safety(self._layout, "arm", by=by, until=until)
        return self.state()

    def disarm(self, by: str) -> None:
        """No more light until somebody arms; lights that are on go off."""
        if self._armed is not None:
            self._armed = None
            log_safety(self._layout, "disarm", by=by)
            self._darken(f"disarmed by {by}")

    # ------------------------------------------------------------------ what is watched

    def _watch(self) -> None:
        while not self._end.wait(WATCH_S):
            try:
                self._look_at_file()
                self._look_at_interlocks()
                if self._armed is not None and self._armed[0] <= time.time():
                    self.disarm("the end of its time")
            except Exception:  # the watch must go on
                log.exception("the safety watch failed")

    def _look_at_file(self) -> None:
        """A halt that came as a file: the socket was silent, or this is the RE worker, which has none."""
        if self._halted is None:
            found = self._halt_file.read()
            if found is not None:
                self.halt(found.reason, found.by, found.at)
        elif self._die is None and self._on_disk and not self._halt_file.exists():
            self.rearm("the latch file's removal")  # how the RE worker is rearmed

    def _look_at_interlocks(self) -> None:
        opened = self._opened()
        if not opened:
            self._was_open = False
            return
        if self._was_open:
            return
        self._was_open = True
        name, state = next(iter(opened.items()))
        why = words(name, state)
        if state.kind != "key" and self._interlock is None:
            self._interlock = Latch(by=name, reason=why, at=time.time())
        self._armed = None
        self._darken(why, self._locks)
        if self._interlock is not None:
            self._keep(self._interlock_file, self._interlock)
        if state.kind == "emergency_stop" and self._halted is None:
            self.halt(why, f"interlock {name}")

    def _darken(self, why: str, also: Steps = MappingProxyType({})) -> None:
        """Lights off first; then what runs is told."""
        outcomes = _Outcomes({**self._lights, **also})

        def follow() -> None:
            steps = outcomes.wait(ANSWER_S)
            failed = {step.name: step.error for step in steps if not step.done}
            log_safety(self._layout, "lights off", why=why, failed=failed)
            self._told(why)
            if self._die is not None and NO_ANSWER in failed.values():
                log.error("%s, and lights did not answer: %s", why, failed)
                self._die()

        threading.Thread(target=follow, name="lights-off", daemon=True).start()

    def _opened(self) -> dict[str, InterlockState]:
        return {} if self._interlocks is None else self._interlocks.opened()

    def _keep(self, file: LatchFile, latch: Latch) -> None:
        try:
            file.write(latch)
        except OSError as error:
            log.error("%s could not be written (%s): the latch is lost when this process ends", file.path, error)


NO_ANSWER = f"no answer within {ANSWER_S:g} s"


class _Outcomes:
    """Steps, each begun in a thread of its own."""

    def __init__(self, steps: Steps) -> None:
        self._began = time.perf_counter()
        self._done: dict[str, HaltStep] = {}
        self._threads = {
            name: threading.Thread(target=self._run, args=(name, step), name=f"halt-{name}", daemon=True)
            for name, step in steps.items()
        }
        for thread in self._threads.values():
            thread.start()

    def _run(self, name: str, step: Callable[[], object]) -> None:
        error = None
        try:
            step()
        except Exception as problem:  # the next step goes on
            error = str(problem)
        seconds = time.perf_counter() - self._began
        self._done[name] = HaltStep(name=name, done=error is None, seconds=seconds, error=error)

    def wait(self, limit_s: float) -> tuple[HaltStep, ...]:
        for thread in self._threads.values():
            thread.join(max(0.0, limit_s - (time.perf_counter() - self._began)))
        return tuple(
            self._done.get(name) or HaltStep(name=name, done=False, seconds=limit_s, error=NO_ANSWER)
            for name in self._threads
        )
