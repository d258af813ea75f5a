// The agent's side of proto/tocsin/v1/agent.proto, written from that alone: one process, its agents, a stream to a hub.
// Results are kept until one has settled them; what runs goes on without a stream, up to the end of the lease.

import { randomUUID } from 'node:crypto';
import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import grpc from '@grpc/grpc-js';
import { AgentHub, MIB, encode, failure, seconds, text, tooLarge } from './wire.js';

const FINAL = ['UNAUTHENTICATED', 'PERMISSION_DENIED', 'INVALID_ARGUMENT'];
const CHANNEL = {
  'grpc.max_receive_message_length': 8 * MIB,
  'grpc.use_local_subchannel_pool': 1, // otherwise a new client inherits the backoff of the one before
};
const TICK = 0.1; // in seconds, as all of these
const WELCOME_WITHIN = 20; // until a hub has told its terms
const SILENCE = 3; // that a hub is allowed in any case
const RETRY_FIRST = 0.2;
const RETRY_MOST = 5;
const LEASE_PART = 0.95; // work stops a little before somebody else may begin it
const STOP_WITHIN = 5; // for functions that are asked to stop when draining is over
const SETTLE_WITHIN = 10; // for the last results and the Goodbye, from the same instant
const ANSWER_WITHIN = 5; // to Goodbye, and to the beat behind Draining

// Why a run's signal is aborted: cancelled, superseded, timeout, stalled, fenced, closed, lease_lost, drained.
export class Stop extends Error {
  name = 'Stop';
}

/** Runs the agents (name -> async function of a run) for the hubs of TOCSIN_HUB, until SIGTERM or SIGINT. */
export async function serve(agents, options = {}) {
  const instance = new Instance(agents, options);
  const drain = () => instance.drain();
  process.on('SIGTERM', drain).on('SIGINT', drain);
  try {
    await instance.serve();
  } finally {
    process.off('SIGTERM', drain).off('SIGINT', drain);
  }
}

class Instance {
  entries = new Map(); // what takes a slot: functions that have not returned, results that are not settled
  terms = null;
  stream = null;
  failures = 0;
  welcomes = 0;
  stopping = []; // what was let go at the lease's end
  drainUntil = Infinity;
  saidGoodbye = false;
  over = new AbortController();

  constructor(agents, options) {
    const { TOCSIN_HUB = '', TOCSIN_AGENT_KEY = '' } = process.env;
    this.agents = agents;
    this.slots = options.slots ?? 10;
    this.drainWithin = options.drainWithin ?? 30;
    this.credentials = options.credentials ?? grpc.credentials.createInsecure();
    this.hubs = options.hubs ?? TOCSIN_HUB.split(',').map((hub) => hub.trim()).filter(Boolean);
    if (!this.hubs.length) throw new Error('TOCSIN_HUB names no hub (host:port, separated by commas)');
    const key = options.key ?? TOCSIN_AGENT_KEY.trim();
    this.metadata = new grpc.Metadata();
    if (key) this.metadata.set('authorization', `Bearer ${key}`);
    this.introduction = {
      protocol: 1,
      name: text(options.name ?? `${hostname()}:${process.pid}`, 200),
      version: 'tocsin-js-example 0.1.0',
      agents: Object.keys(agents),
      slots: this.slots,
    };
    this.takeNewId();
  }

  takeNewId() {
    this.id = randomUUID();
    this.hellos = 0;
    this.lastStream = '0';
    this.beats = 0;
    this.beatsSent = new Map();
    this.leaseUntil = this.lostAt = 0;
  }

  async serve() {
    const ticking = setInterval(() => this.tick(), TICK * 1000);
    try {
      for (let place = Math.floor(Math.random() * this.hubs.length); !this.over.signal.aborted; place++) {
        await this.letGo();
        const { status, details, moving } = await this.connect(this.hubs[place % this.hubs.length]);
        if (this.saidGoodbye && ['OK', 'FAILED_PRECONDITION'].includes(status)) break;
        if (FINAL.includes(status) && !this.welcomes) throw new Error(`the hub refuses us: ${status}: ${details}`);
        if (status === 'FAILED_PRECONDITION') this.beginAnew();
        if (!moving) await this.pause();
      }
    } finally {
      clearInterval(ticking);
      for (const entry of this.entries.values()) this.abort(entry, 'lease_lost');
    }
    say('has left');
  }

  async pause() {
    const most = Math.min(RETRY_MOST, RETRY_FIRST * 2 ** Math.floor(this.failures++ / this.hubs.length));
    await sleep(Math.random() * most * 1000, undefined, { signal: this.over.signal }).catch(() => {});
  }

  beginAnew() {
    say(this.hellos > 1 ? 'was declared lost, begins anew' : 'the hub speaks another version of the protocol');
    for (const entry of [...this.entries.values()]) this.release(entry, 'lease_lost');
    this.takeNewId();
  }

  connect(address) {
    say(`connecting to ${address}`);
    return new Promise((resolve) => {
      const client = new AgentHub(address, this.credentials, CHANNEL);
      const call = client.Connect(this.metadata);
      const stream = { call, address, credit: 0, quiet: 0, seen: now(), helloAt: now(), moveAt: Infinity };
      stream.close = (status, details, moving = false) => {
        if (this.stream !== stream) return;
        this.stream = null;
        say(`connection to ${address} ${stream.welcomed ? 'lost' : 'failed'}: ${status} ${details}`);
        call.cancel();
        client.close();
        resolve({ status, details, moving });
      };
      call.on('error', () => {}); // 'status' follows, and tells the same
      call.on('status', ({ code, details }) => stream.close(grpc.status[code] ?? `status ${code}`, details));
      call.on('data', (message) => {
        if (this.stream !== stream) return;
        stream.quiet = 0;
        this[`on_${message.message}`]?.(message[message.message], stream);
      });
      this.stream = stream;
      this.hellos += 1;
      const { id: instance_id, lastStream: last_stream } = this;
      this.send('hello', { ...this.introduction, instance_id, last_stream, held: this.held() });
    });
  }

  send(kind, body) {
    this.stream.call.write({ [kind]: body });
  }

  get connected() {
    return Boolean(this.stream?.welcomed && !this.stream.goodbyeAt);
  }

  held() {
    return [...this.entries.values()].filter((entry) => entry.held).map(asHeld);
  }

  find({ run_id, fence }) {
    return this.entries.get(`${run_id} ${fence}`);
  }

  renewLease(sentAt) {
    this.leaseUntil = Math.max(this.leaseUntil, sentAt + this.terms.deadAfter * LEASE_PART);
    this.lostAt = Math.max(this.lostAt, sentAt + this.terms.deadAfter);
  }

  on_welcome(welcome, stream) {
    say(`connected to hub ${welcome.hub} at ${stream.address}`);
    this.terms = {
      beatEvery: seconds(welcome.beat_every),
      suspectAfter: Math.max(SILENCE, seconds(welcome.suspect_after)),
      deadAfter: seconds(welcome.dead_after),
      maxBytes: welcome.max_message_bytes,
    };
    stream.welcomed = true;
    this.welcomes += 1;
    stream.beatAt = now() + this.terms.beatEvery;
    this.lastStream = welcome.stream;
    this.renewLease(stream.helloAt);
    for (const fenced of welcome.fenced) this.settle({ ...fenced, fenced: true });
    if (this.draining) this.sendDraining();
    for (const entry of this.entries.values()) {
      entry.unsaid = { ...entry.said, ...entry.unsaid };
      this.sendReport(entry);
      this.sendResult(entry);
    }
    this.grant();
  }

  on_assign({ runs }, stream) {
    stream.credit = Math.max(0, stream.credit - runs.length);
    // Neither after Goodbye nor after the lease: what we do not name as held is queued again.
    if (!this.connected || now() >= this.leaseUntil) return;
    const begun = runs.filter((assignment) => !this.find(assignment)).map((assignment) => this.take(assignment));
    if (begun.length) this.send('begun', { runs: begun.map(asHeld) });
    this.grant();
  }

  on_cancel(cancel) {
    const entry = this.find(cancel);
    if (!entry?.running) return;
    if (cancel.reason === 'fenced') return this.release(entry, 'fenced');
    this.ask(entry, cancel.reason);
  }

  on_settled({ verdicts }) {
    for (const verdict of verdicts) this.settle(verdict);
    this.grant();
  }

  on_beat_taken({ seq }, stream) {
    const taken = Number(seq);
    if (this.beatsSent.has(taken)) this.renewLease(this.beatsSent.get(taken));
    for (const earlier of [...this.beatsSent.keys()]) if (earlier <= taken) this.beatsSent.delete(earlier);
    if (taken >= stream.barrier) stream.drained = true;
    this.failures = 0;
  }

  on_probe() {
    if (this.connected) this.beat();
  }

  on_leaving({ within, reason }, stream) {
    say(`hub at ${stream.address} leaves: ${reason}`);
    stream.moveAt = now() + Math.random() * seconds(within);
  }

  beat() {
    this.beats += 1;
    this.beatsSent.set(this.beats, now());
    this.stream.beatAt = now() + this.terms.beatEvery;
    this.send('beat', { seq: this.beats, held: this.held() });
  }

  grant() {
    if (!this.connected || this.draining || this.stream.moveAt !== Infinity) return;
    const runs = this.slots - this.entries.size - this.stream.credit;
    if (runs <= 0) return;
    this.stream.credit += runs;
    this.send('credit', { runs });
  }

  take(assignment) {
    const { run_id: id, fence, time_left: left } = assignment;
    for (const entry of [...this.entries.values()]) if (entry.id === id) this.release(entry, 'fenced');
    const entry = { id, fence, progress: 0, running: true, result: null, said: {}, unsaid: {} };
    Object.assign(entry, { held: true, asked: false }); // ours, neither settled nor lost; asked to stop, by its hub
    entry.controller = new AbortController();
    entry.dueAt = left ? now() + seconds(left) : Infinity;
    this.entries.set(`${id} ${fence}`, entry);
    setImmediate(() => this.execute(entry, assignment)); // after Begun, and with room for beats in between
    return entry;
  }

  async execute(entry, assignment) {
    const { agent, trigger, attempt } = assignment;
    const { signal } = entry.controller;
    const report = (message, fraction) => this.report(entry, message, fraction);
    let outcome;
    let stopped = false;
    try {
      signal.throwIfAborted();
      if (!Object.hasOwn(this.agents, agent)) throw new Error(`this instance has no agent ${agent}`);
      const input = JSON.parse(assignment.input.toString());
      const run = { id: entry.id, fence: Number(entry.fence), agent, trigger, input, attempt, signal, report };
      outcome = encode(await this.agents[agent](run));
    } catch (error) {
      stopped = signal.aborted;
      outcome = stopped ? { stopped: {} } : failure(error);
    }
    entry.running = false;
    const { failed } = outcome;
    if (stopped || !entry.held) say(`run ${entry.id} (${agent}) stopped ${signal.reason.message}`);
    else say(`run ${entry.id} (${agent}) ${failed ? `failed: ${failed.kind}: ${failed.message}` : 'succeeded'}`);
    if (!entry.held) this.release(entry);
    else if (!stopped || entry.asked) {
      this.sendReport(entry);
      entry.result = outcome;
      this.sendResult(entry);
    } // otherwise it is for Goodbye to give it back
    this.grant();
  }

  report(entry, message, fraction) {
    if (!entry.running) return;
    entry.progress += 1;
    if (message !== undefined && message !== null) entry.unsaid.progress = text(message, 1000);
    if (Number.isFinite(fraction)) entry.unsaid.fraction = Math.min(1, Math.max(0, fraction));
  }

  sendReport(entry) {
    if (!this.connected || !entry.held || entry.result || !Object.keys(entry.unsaid).length) return;
    this.send('report', { run_id: entry.id, fence: entry.fence, ...entry.unsaid });
    entry.said = { ...entry.said, ...entry.unsaid };
    entry.unsaid = {};
  }

  sendResult(entry) {
    if (!this.connected || !entry.held || !entry.result) return;
    if (entry.result.succeeded?.length > this.terms.maxBytes - 1024) entry.result = tooLarge(this.terms.maxBytes);
    this.send('finished', { results: [{ run_id: entry.id, fence: entry.fence, ...entry.result }] });
  }

  // Who stops because of that says so: Stopped.
  ask(entry, reason) {
    entry.asked = true;
    this.abort(entry, reason);
  }

  abort(entry, reason) {
    if (entry.running && !entry.controller.signal.aborted) entry.controller.abort(new Stop(reason));
  }

  // What runs is somebody else's now, and what this stream would bring. Results are kept: their fences decide.
  loseLease() {
    const running = [...this.entries.values()].filter((entry) => entry.running && entry.held);
    for (const entry of running) this.release(entry, 'lease_lost');
    this.stopping.push(...running);
    if (this.connected || running.length) this.stream?.close('DEADLINE_EXCEEDED', 'the lease is over');
  }

  // A Hello gives away what it does not name: that has stopped by then, or may be begun elsewhere in any case.
  async letGo() {
    while (now() < this.lostAt && this.stopping.some((entry) => entry.running)) await sleep(TICK * 1000);
    this.stopping = [];
  }

  settle(verdict) {
    const entry = this.find(verdict);
    if (!entry?.held) return;
    if (verdict.fenced && entry.result) say(`run ${entry.id}: its result came too late, it is fenced`);
    this.release(entry, verdict.fenced ? 'fenced' : 'closed');
  }

  // It is not ours any more; its slot is free once its function has returned.
  release(entry, reason) {
    entry.held = false;
    this.abort(entry, reason);
    if (!entry.running) this.entries.delete(`${entry.id} ${entry.fence}`);
  }

  tick() {
    const at = now();
    if (at >= this.leaseUntil) this.loseLease();
    for (const entry of this.entries.values()) {
      if (!entry.running || !entry.held) continue;
      if (at >= entry.dueAt) this.ask(entry, 'timeout'); // whether there is a hub that asks or not
      if (at >= this.drainUntil) this.abort(entry, 'drained');
      this.sendReport(entry);
    }
    if (this.stream) this.watchStream(this.stream, at);
    if (this.draining) this.watchDrain(at);
  }

  watchStream(stream, at) {
    stream.quiet += Math.min(at - stream.seen, 5 * TICK); // what came while the loop was blocked is not read yet
    stream.seen = at;
    if (at >= stream.goodbyeAt + ANSWER_WITHIN) stream.close('DEADLINE_EXCEEDED', 'no answer to Goodbye');
    else if (stream.goodbyeAt) return;
    else if (stream.quiet >= (this.terms?.suspectAfter ?? WELCOME_WITHIN)) {
      stream.close('DEADLINE_EXCEEDED', 'the hub is silent');
    } else if (at >= stream.moveAt) stream.close('OK', 'moving on, as the hub leaves', true);
    else if (stream.welcomed && at >= stream.beatAt) this.beat();
  }

  get draining() {
    return this.drainUntil !== Infinity;
  }

  drain() {
    if (this.draining) return;
    this.drainUntil = now() + this.drainWithin;
    say(`draining: ${this.entries.size} in hand, within ${this.drainWithin} s`);
    if (this.connected) this.sendDraining();
  }

  // Nothing answers Draining, and what the hub assigned before it may be on its way: the beat's answer comes after.
  sendDraining() {
    this.send('draining', {});
    this.beat();
    this.stream.barrier = this.beats;
    this.stream.barrierUntil = now() + ANSWER_WITHIN;
  }

  watchDrain(at) {
    const inHand = [...this.entries.values()];
    const running = inHand.some((entry) => entry.running);
    const waiting = running || inHand.some((entry) => entry.result);
    if (!this.connected) {
      if (this.stream?.goodbyeAt || (inHand.length && at < this.drainUntil + SETTLE_WITHIN)) return;
      this.over.abort();
      this.stream?.close('CANCELLED', 'nothing is left to be said');
    } else if (!waiting || at >= this.drainUntil + (running ? STOP_WITHIN : SETTLE_WITHIN)) {
      if (!this.stream.drained && at < this.stream.barrierUntil) return;
      // A function that still works is not named: another would begin its run beside it.
      const returned = inHand.filter((entry) => entry.held && !entry.running && !entry.result).map(asHeld);
      this.send('goodbye', { returned });
      this.stream.goodbyeAt = at;
      this.saidGoodbye = true;
    }
  }
}

const now = () => performance.now() / 1000;
const asHeld = ({ id, fence, progress }) => ({ run_id: id, fence, progress });
const say = (line) => process.stderr.write(`tocsin: ${line.replace(/\s+/g, ' ').trim()}\n`);
