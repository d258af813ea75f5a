// The wire's description as it stands in proto/, and what an agent returns or throws in its terms.

import { fileURLToPath } from 'node:url';
import grpc from '@grpc/grpc-js';
import protoLoader from '@grpc/proto-loader';

const PROTO = fileURLToPath(new URL('../../proto/tocsin/v1/agent.proto', import.meta.url));
const LOADING = { keepCase: true, longs: String, defaults: true, oneofs: true };

export const { AgentHub } = grpc.loadPackageDefinition(protoLoader.loadSync(PROTO, LOADING)).tocsin.v1;
export const MIB = 1024 * 1024;

export function seconds(duration) {
  return duration ? Number(duration.seconds) + duration.nanos / 1e9 : 0;
}

// Whatever it is, a string that protobuf can carry.
export function text(value, most) {
  try {
    return String(value).slice(0, most).toWellFormed();
  } catch {
    return '(no text)';
  }
}

export function failure(error) {
  try {
    const named = typeof error?.name === 'string' && error.name;
    const message = text(named ? error.message : error, 10_000);
    return { failed: { kind: text(named || 'Error', 200), message, final: false } };
  } catch {
    return { failed: { kind: 'Error', message: '(an error that cannot be read)', final: false } };
  }
}

export function tooLarge(most) {
  return { failed: { kind: 'PayloadTooLarge', message: `the output has more than ${most} bytes`, final: true } };
}

export function encode(output) {
  if (output === undefined) return { succeeded: Buffer.alloc(0) };
  try {
    const json = JSON.stringify(output);
    if (json === undefined) throw new TypeError(`a ${typeof output} has no JSON`);
    // JSON.stringify writes lone surrogates, and no others, as escapes.
    const clean = json.replace(/\\(?:(ud[89a-f][0-9a-f]{2})|.)/g, (escape, lone) => (lone ? '\ufffd' : escape));
    const bytes = Buffer.from(clean);
    return bytes.length > MIB ? tooLarge(MIB) : { succeeded: bytes };
  } catch (error) {
    return failure(error);
  }
}
