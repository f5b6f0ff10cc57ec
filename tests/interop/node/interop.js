// A platform and a CRM with kafkajs and avsc. See ../README.md for the arguments.
'use strict';

const crypto = require('node:crypto');
const fs = require('node:fs');
const path = require('node:path');
const avro = require('avsc');
const kafkajs = require('kafkajs');
const lz4 = require('lz4-napi');
const snappy = require('snappyjs');
const zstd = require('@bokuweb/zstd-wasm');

const { CompressionCodecs, CompressionTypes, Kafka, logLevel } = kafkajs;
const COUNTRIES = ['US', 'IN', 'NA', "Côte d'Ivoire"];

// kafkajs brings gzip only. Purchase Stream compresses with lz4, so a consumer needs at least that one.
const codec = (compress, decompress) => () => ({
  compress: async (encoder) => Buffer.from(compress(encoder.buffer)),
  decompress: async (buffer) => Buffer.from(decompress(buffer)),
});
CompressionCodecs[CompressionTypes.LZ4] = codec(lz4.compressFrameSync, lz4.decompressFrameSync);
CompressionCodecs[CompressionTypes.Snappy] = codec(snappy.compress, snappy.uncompress);
CompressionCodecs[CompressionTypes.ZSTD] = codec(zstd.compress, zstd.decompress);

// CRC-64-AVRO of the Parsing Canonical Form: Avro specification, "Schema Fingerprints".
function fingerprint(type) {
  const EMPTY = 0xc15d213aa4d7a795n;
  let value = EMPTY;
  for (const byte of Buffer.from(JSON.stringify(type.schema()))) {
    let entry = (value ^ BigInt(byte)) & 0xffn;
    for (let bit = 0; bit < 8; bit++) entry = (entry >> 1n) ^ (EMPTY & -(entry & 1n) & 0xffffffffffffffffn);
    value = (value >> 8n) ^ entry;
  }
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(value);
  return bytes;
}

function schemaOf(name) {
  return avro.Type.forSchema(JSON.parse(fs.readFileSync(path.join(process.env.SCHEMAS, `${name}.avsc`), 'utf8')));
}

function eventOf(id, i) {
  return {
    event_id: id,
    student_id: `student-${i % 97}`,
    occurred_at: 1790000000000 + i,
    student_country: COUNTRIES[i % 4],
    days_on_platform: i % 400,
    minutes_watched: i * 0.25,
    courses_started: i % 7,
    practice_exams_started: i % 5,
    practice_exams_passed: Math.floor((i % 5) / 2),
    minutes_spent_on_exams: (i % 90) * 1.5,
  };
}

async function platform(kafka, topic, count, compression, mode) {
  const type = schemaOf('engagement_event');
  const header = Buffer.concat([Buffer.from([0xc3, 0x01]), fingerprint(type)]);
  const message = (id, i) => ({
    key: i % 10 === 9 ? null : `student-${i % 97}`,
    value: Buffer.concat([header, type.toBuffer(eventOf(id, i))]),
    headers: i % 3 === 0 ? { traceparent: `00-${i}`, 'odd €': [Buffer.from([0, 0xff]), ''] } : {},
  });
  const transactional = mode === 'transactional';
  const producer = kafka.producer({
    idempotent: true,
    maxInFlightRequests: 1,
    transactionalId: transactional ? `node-${crypto.randomUUID()}` : undefined,
  });
  await producer.connect();
  for (let start = 0; start < count; start += 50) {
    const rows = Array.from({ length: Math.min(50, count - start) }, (_, k) => start + k);
    const batch = { topic, compression, messages: rows.map((i) => message(`node-${i}`, i)) };
    if (!transactional) {
      await producer.send(batch);
      continue;
    }
    const aborted = await producer.transaction();
    await aborted.send({ topic, compression, messages: rows.slice(0, 10).map((i) => message(`aborted-${i}`, i)) });
    await aborted.abort();
    const committed = await producer.transaction();
    await committed.send(batch);
    await committed.commit();
  }
  await producer.disconnect();
}

async function crm(kafka, topic, count) {
  const type = schemaOf('purchase_prediction');
  const header = Buffer.concat([Buffer.from([0xc3, 0x01]), fingerprint(type)]);
  const consumer = kafka.consumer({ groupId: `node-${crypto.randomUUID()}`, readUncommitted: false });
  await consumer.connect();
  await consumer.subscribe({ topic, fromBeginning: true });
  await new Promise((resolve, reject) => {
    let found = 0;
    consumer.on(consumer.events.CRASH, ({ payload }) => reject(payload.error));
    consumer.run({
      eachMessage: async ({ message }) => {
        if (!message.value.subarray(0, 10).equals(header)) throw new Error('another schema');
        console.log(JSON.stringify(type.fromBuffer(message.value.subarray(10))));
        if (++found === count) resolve();
      },
    });
  });
  await consumer.disconnect();
}

async function main([role, servers, topic, count, codecName, mode]) {
  await zstd.init();
  const kafka = new Kafka({ brokers: servers.split(','), logLevel: logLevel.ERROR });
  const compression = { none: 0, gzip: 1, snappy: 2, lz4: 3, zstd: 4 }[codecName];
  if (role === 'platform') await platform(kafka, topic, Number(count), compression, mode);
  else await crm(kafka, topic, Number(count));
  process.exit(0);
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exit(1);
});
