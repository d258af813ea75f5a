// Two agents: `echo` returns its input, `slow` takes as many seconds as its input asks for.

import { setTimeout as sleep } from 'node:timers/promises';
import { serve } from './agent.js';

const STEPS_PER_SECOND = 5;

async function echo(run) {
  return run.input;
}

async function slow(run) {
  const seconds = run.input?.seconds ?? 5;
  const steps = Math.ceil(seconds * STEPS_PER_SECOND);
  for (let step = 1; step <= steps; step++) {
    await sleep((seconds / steps) * 1000, undefined, { signal: run.signal });
    const slept = Math.round((seconds * step * 10) / steps) / 10;
    run.report(`${slept} of ${seconds} s`, step / steps);
  }
  return { slept: seconds };
}

await serve({ echo, slow });
process.exit();
