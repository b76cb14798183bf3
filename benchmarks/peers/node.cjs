// One measurement with amqplib for Node.js: `node node.cjs JOB` prints its Result, as
// benchmarks/worker.py does. The names are those of the scenarios.
"use strict";

const job = JSON.parse(process.argv[2]);
const OPTIONS = {
  contentType: "application/json",
  contentEncoding: "utf-8",
  deliveryMode: 1,
};
const SLICE = 20; // messages between two looks at the clock

function print(result) {
  console.log(JSON.stringify(result));
  process.exit(0);
}

function body(size) {
  const data = { id: 1234567, action: "import_feed", ok: true, text: "" };
  data.text = "x".repeat(size - JSON.stringify(data).length);
  return data;
}

const encode = (data) => Buffer.from(JSON.stringify(data));
const seconds = () => Number(process.hrtime.bigint()) / 1e9;

class Stopwatch {
  constructor() {
    this.cpu = process.cpuUsage();
    this.wall = seconds();
  }
  read(messages, extra = {}) {
    const wall = seconds() - this.wall;
    const cpu = process.cpuUsage(this.cpu);
    return { cpu: (cpu.user + cpu.system) / 1e6, wall, messages, extra };
  }
}

// Calls send(SLICE messages) until there are so many, or the time is up.
async function repeat(send, count, allowed) {
  const deadline = seconds() + allowed;
  let done = 0;
  while (done < count && seconds() < deadline) {
    const size = Math.min(SLICE, count - done);
    await send(size);
    done += size;
  }
  return done;
}

async function measure(send, finish) {
  await repeat(send, job.warmup, job.seconds / 2);
  await finish();
  const watch = new Stopwatch();
  const done = await repeat(send, job.messages, job.seconds);
  await finish();
  return watch.read(done);
}

// Sends without waiting for confirms; waits when amqplib says that its buffer is full.
function sender(channel) {
  const data = body(job.options.size);
  return async (count) => {
    for (let n = 0; n < count; n++) {
      if (!channel.sendToQueue(job.queue, encode(data), OPTIONS)) {
        await new Promise((resolve) => channel.once("drain", resolve));
      }
    }
  };
}

async function publish(connection) {
  const channel = await connection.createChannel();
  return measure(sender(channel), () => channel.checkQueue(job.queue));
}

async function confirmed(connection) {
  const channel = await connection.createConfirmChannel();
  const data = body(job.options.size);
  const one = () =>
    new Promise((resolve, reject) =>
      channel.sendToQueue(job.queue, encode(data), OPTIONS, (error) =>
        error ? reject(error) : resolve(),
      ),
    );
  const send = async (count) => {
    for (let n = 0; n < count; n++) await one();
  };
  return measure(send, () => channel.checkQueue(job.queue));
}

async function pipelined(connection) {
  const channel = await connection.createConfirmChannel();
  const send = sender(channel);
  await send(job.warmup);
  await channel.waitForConfirms();
  const watch = new Stopwatch();
  await send(job.messages);
  await channel.waitForConfirms();
  return watch.read(job.messages);
}

// Counts messages: the measured part begins after the warm-up, inside the stream.
function meter() {
  let watch = new Stopwatch();
  let deadline = seconds() + job.seconds / 2;
  let seen = 0;
  let first = 0;
  return () => {
    seen += 1;
    const last = first ? first + job.messages : job.warmup;
    if (seen < last && (seen % SLICE || seconds() < deadline)) return null;
    if (first) return watch.read(seen - first);
    first = seen;
    deadline = seconds() + job.seconds;
    watch = new Stopwatch();
    return null;
  };
}

async function consume(connection) {
  const channel = await connection.createChannel();
  const { prefetch, acks } = job.options;
  const tick = meter();
  if (prefetch) await channel.prefetch(prefetch);
  return new Promise((resolve) => {
    channel.consume(
      job.queue,
      (message) => {
        JSON.parse(message.content.toString());
        if (acks) channel.ack(message);
        const result = tick();
        if (result) resolve(result);
      },
      { noAck: !acks },
    );
  });
}

async function roundtrip(connection) {
  const channel = await connection.createChannel();
  const data = body(job.options.size);
  const trips = [];
  const tick = meter();
  let sent = 0;
  const send = () => {
    sent = seconds();
    channel.sendToQueue(job.queue, encode(data), OPTIONS);
  };
  await channel.prefetch(100);
  return new Promise((resolve) => {
    channel.consume(job.queue, (message) => {
      JSON.parse(message.content.toString());
      channel.ack(message);
      trips.push(seconds() - sent);
      const result = tick();
      if (!result) return send();
      const sorted = trips.slice(-result.messages).sort((a, b) => a - b);
      const at = (share) => sorted[Math.floor(share * (sorted.length - 1))];
      result.extra = { p50: at(0.5), p99: at(0.99) };
      resolve(result);
    });
    send();
  });
}

const SCENARIOS = { publish, confirmed, pipelined, consume, roundtrip };

async function main() {
  let amqplib;
  try {
    amqplib = require("amqplib");
  } catch {
    print({ skipped: "not installed: amqplib" });
  }
  const connection = await amqplib.connect(job.url, { noDelay: true });
  print(await SCENARIOS[job.scenario](connection));
}

main().catch((error) => print({ failed: String(error) }));
