// The agent's side of proto/tocsin/v1/agent.proto: one process, its agents, a stream to one of the hubs.
//
//   await serve({ greet: async (run) => `hello, ${run.input.name}` });
//
// An agent returns its output or throws. What has ended is kept until a hub has settled it, over as many streams as
// that takes; what still runs goes on while there is no stream, up to the end of the lease.

import { randomUUID } from "node:crypto";
import { hostname } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

const PROTO = fileURLToPath(new URL("../../proto/tocsin/v1/agent.proto", import.meta.url));
const { AgentHub } = grpc.loadPackageDefinition(
  loadSync(PROTO, { keepCase: true, longs: String, defaults: true, oneofs: true }),
).tocsin.v1;

const WELCOME_WITHIN = 10_000; // milliseconds, as all times here
const STOPS_WITHIN = 5_000;
const RETRY_FIRST = 100;
const RETRY_MOST = 5_000;
const LEASE_PART = 0.95; // work stops a little before somebody else may begin it
const MESSAGE_ROOM = 64 * 1024; // what a result has besides its output

const CHANNEL = {
  "grpc.max_receive_message_length": -1,
  "grpc.use_local_subchannel_pool": 1, // a new stream tries at once, whatever became of the last one
};
const { UNAUTHENTICATED, PERMISSION_DENIED, INVALID_ARGUMENT, FAILED_PRECONDITION } = grpc.status;
const REFUSALS = new Set([UNAUTHENTICATED, PERMISSION_DENIED, INVALID_ARGUMENT]);
const GONE = new Set(["fenced", "lease_lost", "drain"]); // stopped so, a run is not answered with a result

/** A hub's answer to a Hello that the same Hello would meet again. */
export class Refused extends Error {}

/** Resolves when the process was asked to leave (SIGTERM, SIGINT) and has left. Throws Refused. */
export async function serve(agents, options = {}) {
  const instance = new Instance(agents, options);
  const leave = () => instance.leave();
  process.once("SIGTERM", leave).once("SIGINT", leave);
  try {
    await instance.stayConnected();
  } finally {
    process.off("SIGTERM", leave).off("SIGINT", leave);
  }
}

/** A run in hand: what its agent is given, and what is known of its end. */
class Run {
  #report;
  #controller = new AbortController();
  progress = 0;
  result = null; // as it is sent until it is settled
  stopReason = null;

  constructor(assignment, report) {
    this.id = assignment.run_id;
    this.fence = assignment.fence; // a string, as a number would lose its last digits; so are all 64-bit integers
    this.trigger = assignment.trigger;
    this.agent = assignment.agent;
    this.attempt = assignment.attempt;
    this.nominalAt = new Date(Number(assignment.nominal_at.seconds) * 1_000);
    this.idempotencyKey = assignment.idempotency_key;
    this.input = parsed(assignment.input);
    this.lastOutput = assignment.last && parsed(assignment.last.output);
    this.#report = report;
  }

  /** Aborted when the run is to stop; its reason says why. */
  get signal() {
    return this.#controller.signal;
  }

  /** It advances. fraction: 0 to 1. */
  report(progress, fraction) {
    this.progress += 1;
    this.#report({ run_id: this.id, fence: this.fence, progress: clipped(progress, 1_000), fraction });
  }

  stop(reason) {
    if (this.stopReason !== null && !GONE.has(reason)) return;
    this.stopReason = reason;
    this.#controller.abort(reason);
  }

  get isGone() {
    return GONE.has(this.stopReason);
  }

  get held() {
    return { run_id: this.id, fence: this.fence, progress: this.progress };
  }
}

class Instance {
  #agents;
  #options;
  #metadata = new grpc.Metadata();
  #id = randomUUID();
  #hellos = 0; // under this id
  #lastStream = "0";
  #runs = new Map(); // by run and fence
  #returned = [];
  #call = null; // the stream, from its Welcome to its end
  #maxMessage = 0;
  #sentAt = new Map(); // of beats that were not taken yet, by number
  #seq = 0;
  #deadAfter = Infinity;
  #leaseTimer;
  #nextHub;
  #pause = 0;
  #leaving = null;
  #left = new AbortController();
  #emptied = () => {};

  constructor(agents, { hubs, key, slots = 4, name, drainWithin = 20_000, credentials, log } = {}) {
    this.#agents = agents;
    this.#options = {
      hubs: hubs ?? (process.env.TOCSIN_HUB ?? "127.0.0.1:8621").split(",").map((hub) => hub.trim()),
      credentials: credentials ?? grpc.credentials.createInsecure(),
      name: name ?? `${hostname()}:${process.pid}`,
      log: log ?? ((text) => console.error(text)),
      slots,
      drainWithin,
    };
    key ??= process.env.TOCSIN_AGENT_KEY;
    if (key) this.#metadata.set("authorization", `Bearer ${key}`);
    this.#nextHub = Math.floor(Math.random() * this.#options.hubs.length);
  }

  async stayConnected() {
    for (let failures = 0; !this.#left.signal.aborted; failures += 1) {
      const hub = this.#options.hubs[this.#nextHub++ % this.#options.hubs.length];
      const { code, details, wasWelcome } = await this.#stream(hub);
      if (this.#left.signal.aborted) break;
      if (!wasWelcome) this.#heed(code, details);
      if (wasWelcome) failures = 0;
      // Full jitter: whoever lost the same hub does not come back at the same instant.
      const wait = this.#pause || Math.random() * Math.min(RETRY_MOST, RETRY_FIRST * 2 ** failures);
      this.#pause = 0;
      this.#options.log(`${hub}: ${grpc.status[code]} ${details}; connecting again in ${Math.round(wait)} ms`);
      await sleep(wait, undefined, { signal: this.#left.signal }).catch(() => {});
    }
    clearTimeout(this.#leaseTimer);
    if (this.#leaving) await this.#leaving;
  }

  /** Everybody in hand ends or is given back, and the hub is told. Idempotent. */
  leave() {
    this.#leaving ??= this.#leave();
    return this.#leaving;
  }

  async #leave() {
    this.#options.log("leaving");
    this.#say({ draining: {} });
    await this.#isEmpty(this.#options.drainWithin);
    for (const run of this.#runs.values()) if (!run.result) run.stop("drain");
    await this.#isEmpty(STOPS_WITHIN);
    // Whoever did not stop ends with this process, which is right after this.
    const unfinished = [...this.#runs.values()].filter((run) => !run.result).map((run) => run.held);
    this.#say({ goodbye: { returned: [...this.#returned, ...unfinished] } });
    this.#call?.end();
    const deadline = performance.now() + STOPS_WITHIN;
    while (this.#call && performance.now() < deadline) await sleep(10);
    this.#left.abort();
    this.#call?.cancel();
  }

  async #isEmpty(within) {
    if (this.#runs.size === 0) return;
    const done = new AbortController();
    this.#emptied = () => done.abort();
    await sleep(within, undefined, { signal: done.signal }).catch(() => {});
  }

  // ---------------------------------------------------------------- one stream

  /** How it ended. */
  #stream(hub) {
    const client = new AgentHub(hub, this.#options.credentials, CHANNEL);
    const call = client.Connect(this.#metadata);
    const stream = { call, hub, helloAt: performance.now(), heardAt: 0, beats: undefined };
    const late = setTimeout(() => call.cancel(), WELCOME_WITHIN);
    return new Promise((resolve) => {
      call.on("data", (message) => {
        stream.heardAt = performance.now();
        clearTimeout(late);
        this.#take(message, stream);
      });
      call.on("error", () => {}); // the status says the same
      call.on("status", ({ code, details }) => {
        clearTimeout(late);
        clearInterval(stream.beats);
        if (this.#call === call) this.#call = null;
        client.close();
        resolve({ code, details, wasWelcome: stream.beats !== undefined });
      });
      this.#hellos += 1;
      call.write({ hello: this.#hello() });
    });
  }

  #hello() {
    return {
      protocol: 1,
      instance_id: this.#id,
      name: this.#options.name,
      version: "tocsin-js 0.1.0",
      agents: Object.keys(this.#agents),
      slots: this.#options.slots,
      held: this.#held(),
      last_stream: this.#lastStream,
    };
  }

  /** What a Hello that met no Welcome means for the next one. Throws Refused. */
  #heed(code, details) {
    if (REFUSALS.has(code)) throw new Refused(`${grpc.status[code]}: ${details}`);
    if (code !== FAILED_PRECONDITION) return;
    // An id that no hub has heard of cannot have been lost: it is the protocol's version then.
    if (this.#hellos === 1) throw new Refused(details);
    for (const run of this.#runs.values()) this.#lose(run, "fenced");
    [this.#id, this.#hellos, this.#lastStream] = [randomUUID(), 0, "0"];
  }

  #take(message, stream) {
    const told = message[message.message];
    switch (message.message) {
      case "welcome":
        return this.#enter(told, stream);
      case "assign":
        for (const assignment of told.runs) this.#begin(assignment);
        return;
      case "cancel":
        return this.#cancel(told);
      case "settled":
        // Without a result of ours, the hub has closed a run that would not stop.
        for (const verdict of told.verdicts) this.#lose(this.#runs.get(keyOf(verdict)), "fenced");
        return;
      case "beat_taken":
        return this.#renew(told.seq);
      case "probe":
        return this.#beat();
      case "leaving":
        this.#pause = Math.random() * milliseconds(told.within);
        setTimeout(() => stream.call.cancel(), this.#pause).unref();
    }
  }

  #enter(welcome, stream) {
    this.#call = stream.call;
    this.#lastStream = welcome.stream;
    this.#maxMessage = welcome.max_message_bytes;
    this.#deadAfter = milliseconds(welcome.dead_after);
    this.#sentAt.clear();
    this.#holdUntil(stream.helloAt + this.#deadAfter * LEASE_PART);
    this.#options.log(`${stream.hub}: welcome, stream ${welcome.stream}`);
    for (const held of welcome.fenced) this.#lose(this.#runs.get(keyOf(held)), "fenced");
    const suspectAfter = milliseconds(welcome.suspect_after);
    stream.beats = setInterval(() => {
      if (performance.now() - stream.heardAt > suspectAfter) stream.call.cancel(); // nobody is there any more
      this.#beat();
    }, milliseconds(welcome.beat_every));
    for (const run of this.#runs.values()) if (run.result) this.#say({ finished: { results: [run.result] } });
    if (this.#leaving) this.#say({ draining: {} });
    else this.#say({ credit: { runs: Math.max(0, this.#options.slots - this.#runs.size) } });
  }

  /** Between streams nothing is said: the next Hello and the results that are kept tell it all. */
  #say(message) {
    this.#call?.write(message);
  }

  // ---------------------------------------------------------------- the lease

  #beat() {
    this.#seq += 1;
    this.#sentAt.set(this.#seq, performance.now());
    this.#say({ beat: { seq: this.#seq, held: this.#held() } });
  }

  #renew(seq) {
    const sentAt = this.#sentAt.get(Number(seq));
    for (const earlier of this.#sentAt.keys()) if (earlier <= Number(seq)) this.#sentAt.delete(earlier);
    if (sentAt !== undefined) this.#holdUntil(sentAt + this.#deadAfter * LEASE_PART);
  }

  #holdUntil(deadline) {
    clearTimeout(this.#leaseTimer);
    this.#leaseTimer = setTimeout(() => this.#expire(), Math.max(0, deadline - performance.now()));
  }

  /** Work stops, as somebody else may begin it from now on. What has ended waits for its verdict. */
  #expire() {
    for (const run of this.#runs.values()) if (!run.result) this.#lose(run, "lease_lost");
    this.#call?.cancel(); // and what it would still bring is not ours either
    this.#call = null;
  }

  // ---------------------------------------------------------------- runs

  #held() {
    return [...this.#runs.values()].filter((run) => !run.isGone).map((run) => run.held);
  }

  async #begin(assignment) {
    if (!this.#call || this.#runs.has(keyOf(assignment))) return;
    const run = new Run(assignment, (report) => this.#say({ report }));
    this.#runs.set(keyOf(assignment), run);
    this.#say({ begun: { runs: [run.held] } });
    const outcome = await this.#outcomeOf(run);
    this.#options.log(`run ${run.id}: ${Object.keys(outcome)[0]} ${run.stopReason ?? ""}`);
    if (!run.isGone || (run.stopReason === "drain" && outcome.succeeded)) {
      run.result = { run_id: run.id, fence: run.fence, ...outcome };
      return this.#say({ finished: { results: [run.result] } });
    }
    if (run.stopReason === "drain") this.#returned.push(run.held);
    this.#forget(run);
  }

  async #outcomeOf(run) {
    try {
      const output = Buffer.from(JSON.stringify(await this.#agents[run.agent](run)) ?? "null");
      const most = this.#maxMessage - MESSAGE_ROOM;
      if (output.length <= most) return { succeeded: output };
      return { failed: { kind: "TooLarge", message: `output: at most ${most} bytes, not ${output.length}`, final: true } };
    } catch (error) {
      if (run.signal.aborted) return { stopped: {} };
      return { failed: { kind: error?.name ?? "Error", message: clipped(error?.message ?? error, 1_000) } };
    }
  }

  #cancel({ run_id, fence, reason }) {
    const run = this.#runs.get(keyOf({ run_id, fence }));
    if (reason === "fenced") this.#lose(run, reason);
    else if (!run?.result) run?.stop(reason);
  }

  /** It is not ours any more. Its slot is free when it has stopped. */
  #lose(run, reason) {
    run?.stop(reason);
    if (run?.result) this.#forget(run);
  }

  #forget(run) {
    if (!run || !this.#runs.delete(keyOf(run.held))) return;
    if (!this.#leaving) this.#say({ credit: { runs: 1 } });
    if (this.#runs.size === 0) this.#emptied();
  }
}

function keyOf({ run_id, fence }) {
  return `${run_id}/${fence}`;
}

function parsed(json) {
  return json.length ? JSON.parse(json) : null;
}

/** A half of a character that would be left is made whole, as the wire takes only whole ones. */
function clipped(text, most) {
  return String(text).slice(0, most).toWellFormed();
}

function milliseconds({ seconds, nanos }) {
  return Number(seconds) * 1_000 + nanos / 1_000_000;
}
