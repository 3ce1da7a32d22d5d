/**
 * Writes the JSON schemas of the API and of the events, for users of other languages: `schemas/json/*.json`.
 * With `--check` it only compares, and says which are old. Run: `npm run schemas`.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { z } from 'zod';
import { ApiError, OPERATIONS } from '../schemas/api.ts';
import { EventRecord } from '../schemas/events.ts';
import { INCIDENT_SCHEMAS } from '../schemas/incidents.ts';
import { FleetStatus } from '../schemas/fleet-status.ts';
import { REPLAY_SCHEMAS } from '../schemas/replay.ts';
import { RightsFile } from '../schemas/rights.ts';

const folder = new URL('../schemas/json/', import.meta.url);

/** Name → JSON schema (draft 2020-12) of every message and record that other programs see. */
export function jsonSchemas(): Map<string, object> {
  const schemas = new Map<string, object>();
  for (const [name, { request, result }] of Object.entries(OPERATIONS)) {
    schemas.set(`${name}.request`, z.toJSONSchema(request, { io: 'input' }));
    schemas.set(`${name}.result`, z.toJSONSchema(result));
  }
  schemas.set('error', z.toJSONSchema(ApiError));
  schemas.set('api-users', z.toJSONSchema(RightsFile, { io: 'input' }));
  schemas.set('fleet', z.toJSONSchema(FleetStatus));
  schemas.set('event', z.toJSONSchema(EventRecord));
  for (const [name, schema] of Object.entries({ ...REPLAY_SCHEMAS, ...INCIDENT_SCHEMAS }))
    schemas.set(name, z.toJSONSchema(schema));
  return schemas;
}

if (process.argv[1] === import.meta.filename) {
  const check = process.argv.includes('--check');
  mkdirSync(folder, { recursive: true });
  const old: string[] = [];
  for (const [name, schema] of jsonSchemas()) {
    const file = new URL(`${name}.json`, folder);
    const text = `${JSON.stringify(schema, null, 2)}\n`;
    if (check) {
      if (read(file) !== text) old.push(name);
    } else {
      writeFileSync(file, text);
    }
  }
  if (old.length > 0) {
    process.stderr.write(`old: ${old.join(', ')}; run: npm run schemas\n`);
    process.exitCode = 1;
  }
}

function read(file: URL): string | undefined {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return undefined;
  }
}
