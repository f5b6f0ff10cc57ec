// A CRM: read committed predictions and act on the likely buyers.
'use strict';

const fs = require('node:fs');
const path = require('node:path');
const avro = require('avsc');
const { CompressionCodecs, CompressionTypes, Kafka, logLevel } = require('kafkajs');
const lz4 = require('lz4-napi');

// Purchase Stream compresses with lz4, and kafkajs brings gzip only.
CompressionCodecs[CompressionTypes.LZ4] = () => ({
  decompress: async (buffer) => Buffer.from(lz4.decompressFrameSync(buffer)),
});

const { env } = process;
const schemas = env.SCHEMAS || path.join(__dirname, '..', '..', 'schemas');
const type = avro.Type.forSchema(JSON.parse(fs.readFileSync(path.join(schemas, 'purchase_prediction.avsc'), 'utf8')));
const HEADER_BYTES = 10; // Avro single-object encoding: C3 01 and the schema's fingerprint

async function main() {
  const brokers = (env.BOOTSTRAP_SERVERS || 'localhost:9092').split(',');
  const consumer = new Kafka({ brokers, logLevel: logLevel.ERROR }).consumer({ groupId: env.GROUP_ID || 'crm' });
  await consumer.connect();
  await consumer.subscribe({ topic: env.TOPIC || 'purchase-predictions', fromBeginning: true });
  let remaining = Number(env.COUNT || -1);
  await new Promise((resolve) => {
    consumer.run({
      eachMessage: async ({ message }) => {
        const prediction = type.fromBuffer(message.value.subarray(HEADER_BYTES));
        if (prediction.predicted_purchase === 1) {
          console.log(prediction.student_id, prediction.predicted_purchase_probability.toFixed(4));
        }
        if (--remaining === 0) resolve();
      },
    });
  });
  await consumer.disconnect();
}

main();
