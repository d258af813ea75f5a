// Two agents: `echo` returns its input, `slow` takes as many seconds as its input asks for.

import { setTimeout as sleep } from "node:timers/promises";
import { serve } from "./agent.js";

const STEP = 0.2;

async function echo(run) {
  return run.input;
}

async function slow(run) {
  const { seconds = 5 } = run.input ?? {};
  for (let done = 0; done < seconds; done += STEP) {
    run.report(`${Math.round(done)} of ${seconds} s`, done / seconds);
    await sleep(STEP * 1_000, undefined, { signal: run.signal });
  }
  return { slept: seconds };
}

await serve({ echo, slow });
process.exit(); // also if an agent that was asked to stop has not
