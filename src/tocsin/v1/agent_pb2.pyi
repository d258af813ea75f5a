import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FromAgent(_message.Message):
    __slots__ = ("hello", "credit", "begun", "beat", "report", "finished", "draining", "goodbye")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    BEGUN_FIELD_NUMBER: _ClassVar[int]
    BEAT_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    GOODBYE_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    credit: Credit
    begun: Begun
    beat: Beat
    report: Report
    finished: Finished
    draining: Draining
    goodbye: Goodbye
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., credit: _Optional[_Union[Credit, _Mapping]] = ..., begun: _Optional[_Union[Begun, _Mapping]] = ..., beat: _Optional[_Union[Beat, _Mapping]] = ..., report: _Optional[_Union[Report, _Mapping]] = ..., finished: _Optional[_Union[Finished, _Mapping]] = ..., draining: _Optional[_Union[Draining, _Mapping]] = ..., goodbye: _Optional[_Union[Goodbye, _Mapping]] = ...) -> None: ...

class FromHub(_message.Message):
    __slots__ = ("welcome", "assign", "cancel", "settled", "beat_taken", "probe", "leaving")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    ASSIGN_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    SETTLED_FIELD_NUMBER: _ClassVar[int]
    BEAT_TAKEN_FIELD_NUMBER: _ClassVar[int]
    PROBE_FIELD_NUMBER: _ClassVar[int]
    LEAVING_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    assign: Assign
    cancel: Cancel
    settled: Settled
    beat_taken: BeatTaken
    probe: Probe
    leaving: Leaving
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., assign: _Optional[_Union[Assign, _Mapping]] = ..., cancel: _Optional[_Union[Cancel, _Mapping]] = ..., settled: _Optional[_Union[Settled, _Mapping]] = ..., beat_taken: _Optional[_Union[BeatTaken, _Mapping]] = ..., probe: _Optional[_Union[Probe, _Mapping]] = ..., leaving: _Optional[_Union[Leaving, _Mapping]] = ...) -> None: ...

class Held(_message.Message):
    __slots__ = ("run_id", "fence", "progress")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    fence: int
    progress: int
    def __init__(self, run_id: _Optional[str] = ..., fence: _Optional[int] = ..., progress: _Optional[int] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("protocol", "instance_id", "name", "version", "agents", "labels", "slots", "held", "last_stream")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    AGENTS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    LAST_STREAM_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    instance_id: str
    name: str
    version: str
    agents: _containers.RepeatedScalarFieldContainer[str]
    labels: _containers.ScalarMap[str, str]
    slots: int
    held: _containers.RepeatedCompositeFieldContainer[Held]
    last_stream: int
    def __init__(self, protocol: _Optional[int] = ..., instance_id: _Optional[str] = ..., name: _Optional[str] = ..., version: _Optional[str] = ..., agents: _Optional[_Iterable[str]] = ..., labels: _Optional[_Mapping[str, str]] = ..., slots: _Optional[int] = ..., held: _Optional[_Iterable[_Union[Held, _Mapping]]] = ..., last_stream: _Optional[int] = ...) -> None: ...

class Credit(_message.Message):
    __slots__ = ("runs",)
    RUNS_FIELD_NUMBER: _ClassVar[int]
    runs: int
    def __init__(self, runs: _Optional[int] = ...) -> None: ...

class Begun(_message.Message):
    __slots__ = ("runs",)
    RUNS_FIELD_NUMBER: _ClassVar[int]
    runs: _containers.RepeatedCompositeFieldContainer[Held]
    def __init__(self, runs: _Optional[_Iterable[_Union[Held, _Mapping]]] = ...) -> None: ...

class Beat(_message.Message):
    __slots__ = ("seq", "held", "stalled", "culprit")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    STALLED_FIELD_NUMBER: _ClassVar[int]
    CULPRIT_FIELD_NUMBER: _ClassVar[int]
    seq: int
    held: _containers.RepeatedCompositeFieldContainer[Held]
    stalled: bool
    culprit: str
    def __init__(self, seq: _Optional[int] = ..., held: _Optional[_Iterable[_Union[Held, _Mapping]]] = ..., stalled: _Optional[bool] = ..., culprit: _Optional[str] = ...) -> None: ...

class Report(_message.Message):
    __slots__ = ("run_id", "fence", "progress", "fraction", "usage", "log", "log_from")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    FRACTION_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    LOG_FROM_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    fence: int
    progress: str
    fraction: float
    usage: str
    log: str
    log_from: int
    def __init__(self, run_id: _Optional[str] = ..., fence: _Optional[int] = ..., progress: _Optional[str] = ..., fraction: _Optional[float] = ..., usage: _Optional[str] = ..., log: _Optional[str] = ..., log_from: _Optional[int] = ...) -> None: ...

class Finished(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[Result]
    def __init__(self, results: _Optional[_Iterable[_Union[Result, _Mapping]]] = ...) -> None: ...

class Result(_message.Message):
    __slots__ = ("run_id", "fence", "succeeded", "failed", "postponed", "stopped", "usage", "log", "follow_ups")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    SUCCEEDED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    POSTPONED_FIELD_NUMBER: _ClassVar[int]
    STOPPED_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_UPS_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    fence: int
    succeeded: bytes
    failed: Failure
    postponed: Postponed
    stopped: Stopped
    usage: str
    log: str
    follow_ups: _containers.RepeatedCompositeFieldContainer[FollowUp]
    def __init__(self, run_id: _Optional[str] = ..., fence: _Optional[int] = ..., succeeded: _Optional[bytes] = ..., failed: _Optional[_Union[Failure, _Mapping]] = ..., postponed: _Optional[_Union[Postponed, _Mapping]] = ..., stopped: _Optional[_Union[Stopped, _Mapping]] = ..., usage: _Optional[str] = ..., log: _Optional[str] = ..., follow_ups: _Optional[_Iterable[_Union[FollowUp, _Mapping]]] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("kind", "message", "final")
    KIND_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    FINAL_FIELD_NUMBER: _ClassVar[int]
    kind: str
    message: str
    final: bool
    def __init__(self, kind: _Optional[str] = ..., message: _Optional[str] = ..., final: _Optional[bool] = ...) -> None: ...

class Postponed(_message.Message):
    __slots__ = ("delay", "reason")
    DELAY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    delay: _duration_pb2.Duration
    reason: str
    def __init__(self, delay: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., reason: _Optional[str] = ...) -> None: ...

class Stopped(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class FollowUp(_message.Message):
    __slots__ = ("at", "after", "input")
    AT_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    at: _timestamp_pb2.Timestamp
    after: _duration_pb2.Duration
    input: bytes
    def __init__(self, at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., after: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., input: _Optional[bytes] = ...) -> None: ...

class Draining(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Goodbye(_message.Message):
    __slots__ = ("returned",)
    RETURNED_FIELD_NUMBER: _ClassVar[int]
    returned: _containers.RepeatedCompositeFieldContainer[Held]
    def __init__(self, returned: _Optional[_Iterable[_Union[Held, _Mapping]]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("protocol", "hub", "version", "beat_every", "suspect_after", "dead_after", "max_message_bytes", "valid", "fenced", "stream")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    HUB_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BEAT_EVERY_FIELD_NUMBER: _ClassVar[int]
    SUSPECT_AFTER_FIELD_NUMBER: _ClassVar[int]
    DEAD_AFTER_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    VALID_FIELD_NUMBER: _ClassVar[int]
    FENCED_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    hub: str
    version: str
    beat_every: _duration_pb2.Duration
    suspect_after: _duration_pb2.Duration
    dead_after: _duration_pb2.Duration
    max_message_bytes: int
    valid: _containers.RepeatedCompositeFieldContainer[Held]
    fenced: _containers.RepeatedCompositeFieldContainer[Held]
    stream: int
    def __init__(self, protocol: _Optional[int] = ..., hub: _Optional[str] = ..., version: _Optional[str] = ..., beat_every: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., suspect_after: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., dead_after: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., max_message_bytes: _Optional[int] = ..., valid: _Optional[_Iterable[_Union[Held, _Mapping]]] = ..., fenced: _Optional[_Iterable[_Union[Held, _Mapping]]] = ..., stream: _Optional[int] = ...) -> None: ...

class Assign(_message.Message):
    __slots__ = ("runs",)
    RUNS_FIELD_NUMBER: _ClassVar[int]
    runs: _containers.RepeatedCompositeFieldContainer[Assignment]
    def __init__(self, runs: _Optional[_Iterable[_Union[Assignment, _Mapping]]] = ...) -> None: ...

class Assignment(_message.Message):
    __slots__ = ("run_id", "fence", "trigger_id", "trigger", "agent", "kind", "lane", "attempt", "max_attempts", "nominal_at", "effective_at", "started_at", "due_by", "time_left", "input", "idempotency_key", "last", "cancel_within", "traceparent")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    TRIGGER_ID_FIELD_NUMBER: _ClassVar[int]
    TRIGGER_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    LANE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    MAX_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    NOMINAL_AT_FIELD_NUMBER: _ClassVar[int]
    EFFECTIVE_AT_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    DUE_BY_FIELD_NUMBER: _ClassVar[int]
    TIME_LEFT_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    CANCEL_WITHIN_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    fence: int
    trigger_id: str
    trigger: str
    agent: str
    kind: str
    lane: str
    attempt: int
    max_attempts: int
    nominal_at: _timestamp_pb2.Timestamp
    effective_at: _timestamp_pb2.Timestamp
    started_at: _timestamp_pb2.Timestamp
    due_by: _timestamp_pb2.Timestamp
    time_left: _duration_pb2.Duration
    input: bytes
    idempotency_key: str
    last: LastRun
    cancel_within: _duration_pb2.Duration
    traceparent: str
    def __init__(self, run_id: _Optional[str] = ..., fence: _Optional[int] = ..., trigger_id: _Optional[str] = ..., trigger: _Optional[str] = ..., agent: _Optional[str] = ..., kind: _Optional[str] = ..., lane: _Optional[str] = ..., attempt: _Optional[int] = ..., max_attempts: _Optional[int] = ..., nominal_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., effective_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., started_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., due_by: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., time_left: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., input: _Optional[bytes] = ..., idempotency_key: _Optional[str] = ..., last: _Optional[_Union[LastRun, _Mapping]] = ..., cancel_within: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., traceparent: _Optional[str] = ...) -> None: ...

class LastRun(_message.Message):
    __slots__ = ("id", "nominal_at", "finished_at", "output")
    ID_FIELD_NUMBER: _ClassVar[int]
    NOMINAL_AT_FIELD_NUMBER: _ClassVar[int]
    FINISHED_AT_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    id: str
    nominal_at: _timestamp_pb2.Timestamp
    finished_at: _timestamp_pb2.Timestamp
    output: bytes
    def __init__(self, id: _Optional[str] = ..., nominal_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., finished_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., output: _Optional[bytes] = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ("run_id", "fence", "reason", "within")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    WITHIN_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    fence: int
    reason: str
    within: _duration_pb2.Duration
    def __init__(self, run_id: _Optional[str] = ..., fence: _Optional[int] = ..., reason: _Optional[str] = ..., within: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Settled(_message.Message):
    __slots__ = ("verdicts",)
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    verdicts: _containers.RepeatedCompositeFieldContainer[Verdict]
    def __init__(self, verdicts: _Optional[_Iterable[_Union[Verdict, _Mapping]]] = ...) -> None: ...

class Verdict(_message.Message):
    __slots__ = ("run_id", "fence", "fenced")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    FENCED_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    fence: int
    fenced: bool
    def __init__(self, run_id: _Optional[str] = ..., fence: _Optional[int] = ..., fenced: _Optional[bool] = ...) -> None: ...

class BeatTaken(_message.Message):
    __slots__ = ("seq",)
    SEQ_FIELD_NUMBER: _ClassVar[int]
    seq: int
    def __init__(self, seq: _Optional[int] = ...) -> None: ...

class Probe(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Leaving(_message.Message):
    __slots__ = ("within", "reason")
    WITHIN_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    within: _duration_pb2.Duration
    reason: str
    def __init__(self, within: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., reason: _Optional[str] = ...) -> None: ...
