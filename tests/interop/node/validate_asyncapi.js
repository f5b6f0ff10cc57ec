// Validate an AsyncAPI document from standard input with AsyncAPI's own parser; print what is wrong.
'use strict';

const fs = require('node:fs');
const { AvroSchemaParser } = require('@asyncapi/avro-schema-parser');
const { Parser } = require('@asyncapi/parser');

async function main() {
  const parser = new Parser({ ruleset: { core: true, recommended: false } });
  parser.registerSchemaParser(AvroSchemaParser());
  const diagnostics = await parser.validate(fs.readFileSync(0, 'utf8'));
  const errors = diagnostics.filter(({ severity }) => severity === 0);
  for (const { message, path } of errors) console.log(path.join('.'), message);
  process.exit(errors.length > 0 ? 1 : 0);
}

main();
