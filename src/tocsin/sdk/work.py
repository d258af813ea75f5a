"""Attempts in hand: begun as the hub assigns them, asked to stop as it says, and their ends told until answered.

Lives on the agents' loop. Reads what the link has received, in order; writes to the outbox, once a turn
of the loop. If the process dies, the hub notices that its beats end. If only the stream does, attempts
go on and ends wait: the next Welcome says which are still ours, and these are told anew.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

from tocsin.clock import Clock
from tocsin.domain.run import Failed, Outcome, Postponed, Stopped, StopReason
from tocsin.engine.executor import Executor
from tocsin.sdk import wire
from tocsin.sdk.attempts import Attempts
from tocsin.sdk.hands import Hand, Hands
from tocsin.sdk.outbox import Outbox
from tocsin.telemetry import Log
from tocsin.v1 import agent_pb2 as pb

DEFAULT_WITHIN: Final = 30.0

DEFAULT_MESSAGE_BYTES: Final = 8 * 1024 * 1024

FRAME_BYTES: Final = 1024
"""What a message has around a single result, at most."""


class Work:
    """All attempts of this process. Everything but ``Outbox.note`` is called on the agents' loop.

    arrived: what a hub had on its way when it heard that we drain. answered: every end has been.
    """

    def __init__(
        self, *, executors: Sequence[Executor], slots: int, hands: Hands, outbox: Outbox, clock: Clock, log: Log
    ) -> None:
        self._attempts = Attempts(executors=executors, ended=self._ended_with, clock=clock, log=log)
        self._slots = slots
        self._hands = hands
        self._outbox = outbox
        self._log = log
        self._stream = 0
        self._credit = 0
        self._accepting = False
        self._draining = False
        self._max_bytes = DEFAULT_MESSAGE_BYTES
        self._unanswered: dict[Hand, None] = {}
        self._begun: list[Hand] = []
        self._ended: list[Hand] = []
        self._told_later = False
        self.arrived = asyncio.Event()
        self.answered = asyncio.Event()
        self.answered.set()

    @property
    def attempts(self) -> Attempts:
        """What is being executed, ours or not."""
        return self._attempts

    def receive(self, stream: int, message: pb.FromHub) -> None:
        """What the hub has said on this stream is done."""
        match message.WhichOneof("message"):
            case "welcome":
                self._welcomed(stream, message.welcome)
            case "assign":
                self._assigned(stream, message.assign.runs)
            case "cancel":
                self._cancelled(message.cancel)
            case "settled":
                self._settled(message.settled.verdicts)
            case "leaving":
                self._accepting = False

    def abandon(self, hands: Iterable[Hand], reason: StopReason) -> None:
        """These are not ours any more: what still runs is asked to stop, and nothing is told of them."""
        for hand in hands:
            self._forget(hand)
            hand.result = None
            self._attempts.ask_to_stop(hand, reason)
        self._tell()

    # --- leaving

    def drain(self) -> None:
        """No more work is taken, on this stream and on those to come."""
        self._draining = True
        self._outbox.drain(self._stream)

    def returned(self) -> list[pb.Held]:
        """What has not ended, to be queued again."""
        return [hand.held for hand in self._hands.all() if hand.result is None]

    @property
    def unanswered(self) -> int:
        return len(self._unanswered)

    # --- what the hub says

    def _welcomed(self, stream: int, welcome: pb.Welcome) -> None:
        self._stream, self._credit = stream, 0
        self._begun, self._ended = [], []
        self._accepting = True
        self._max_bytes = welcome.max_message_bytes or DEFAULT_MESSAGE_BYTES
        fenced = [self._hands.get(held.run_id, held.fence) for held in welcome.fenced]
        for hand in filter(None, fenced):
            self._fence(hand)
        self._ended += self._unanswered
        self._say_logs()
        if self._draining:
            self._outbox.drain(stream)
        self._tell()

    def _say_logs(self) -> None:
        """What was said of them on a former stream may not have come through."""
        for hand in self._hands.all():
            if hand.result is None and hand.reports.kept.has_log:
                self._outbox.note(hand.reports.kept)

    def _assigned(self, stream: int, messages: Iterable[pb.Assignment]) -> None:
        hands = [hand for message in messages if (hand := self._hand(message)) is not None]
        admitted, fenced = self._hands.admit(stream, hands)
        if stream == self._stream:
            self._credit = max(0, self._credit - len(hands))
        self.abandon(fenced, StopReason.FENCED)
        for hand in admitted:
            if self._draining:
                # It crossed our Draining: given back, uncounted, as nothing of it was done.
                self._close(hand, Postponed(0.0, "draining"))
            else:
                self._began(hand)

    def _hand(self, message: pb.Assignment) -> Hand | None:
        try:
            assignment = wire.assignment_of(message)
        except ValueError as error:
            self._log.error("assignment.refused", run_id=message.run_id, fence=message.fence, error=str(error))
            return None
        within = wire.seconds_of(message.cancel_within) if message.HasField("cancel_within") else DEFAULT_WITHIN
        limit = wire.limit_of(message)
        return Hand(message.run_id, assignment, within=within, limit=limit, changed=self._outbox.note)

    def _cancelled(self, cancel: pb.Cancel) -> None:
        hand = self._hands.get(cancel.run_id, cancel.fence)
        if hand is None or hand.result is not None:
            return
        reason = wire.stop_reason_of(cancel.reason)
        if reason is StopReason.FENCED:
            self._fence(hand)
            return
        if cancel.HasField("within"):
            hand.within = wire.seconds_of(cancel.within)
        self._attempts.ask_to_stop(hand, reason)

    def _settled(self, verdicts: Iterable[pb.Verdict]) -> None:
        for verdict in verdicts:
            hand = self._hands.get(verdict.run_id, verdict.fence)
            if hand is None:
                continue
            if verdict.fenced:
                self._log.warning("run.fenced", run_id=hand.run_id, fence=hand.fence)
                self._fence(hand)
            elif hand.result is not None:
                self._forget(hand)
        self._tell()

    def _fence(self, hand: Hand) -> None:
        self._hands.drop(hand)
        self.abandon([hand], StopReason.FENCED)

    def _forget(self, hand: Hand) -> None:
        self._hands.drop(hand)
        self._unanswered.pop(hand, None)
        if not self._unanswered:
            self.answered.set()

    # --- ends

    def _began(self, hand: Hand) -> None:
        self._attempts.begin(hand)
        self._begun.append(hand)
        self._tell()

    def _ended_with(self, hand: Hand, outcome: Outcome) -> None:
        """An attempt has ended; of what is not ours any more, or is to be returned, nothing is told."""
        interrupted = hand.stop.reason is StopReason.INTERRUPTED and isinstance(outcome, Stopped | Failed)
        if hand not in self._hands or (interrupted and self._draining):
            self._tell()
        elif interrupted:
            # Nobody here has asked for that: whatever has cancelled its task, the run is not to blame.
            self._close(hand, Postponed(0.0, "interrupted"))
        else:
            self._close(hand, outcome)

    def _close(self, hand: Hand, outcome: Outcome) -> None:
        """The run's end waits for its answer."""
        hand.result = wire.result_of(hand.run_id, hand.fence, outcome, hand.reports.kept)
        if (size := hand.result.ByteSize() + FRAME_BYTES) > self._max_bytes:
            text = f"the result is {size:,} bytes; the hub takes {self._max_bytes:,}: pass references instead"
            refused = Failed("PayloadTooLarge", text, final=True)
            hand.result = wire.failure_of(hand.run_id, hand.fence, refused)
        self._unanswered[hand] = None
        self.answered.clear()
        self._ended.append(hand)
        self._tell()

    # --- telling

    def _tell(self) -> None:
        """What has happened in this turn of the loop is told together, after it."""
        if not self._told_later:
            self._told_later = True
            asyncio.get_running_loop().call_soon(self._tell_now)

    def _tell_now(self) -> None:
        self._told_later = False
        begun, self._begun = self._begun, []
        ended, self._ended = [hand for hand in self._ended if hand in self._hands], []
        credit = self._room()
        self._credit += credit
        if begun or ended or credit:
            self._outbox.put(self._stream, begun=begun, ended=ended, credit=credit)

    def _room(self) -> int:
        """Runs more that may come: there is a slot for each, and room for its end, should none be answered."""
        if self._draining or not self._accepting:
            return 0
        coming = len(self._attempts) + self._credit
        return max(0, min(self._slots - coming, 2 * self._slots - coming - len(self._unanswered)))
