/** Where traces go, by options and by OpenTelemetry's variables. */
import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { type Env, type TracesFlags, tracesChoice } from '../../src/traces/settings.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterEach(() => cleanup.run());
const settingsOf = (env: Env, flags: TracesFlags = {}) => tracesChoice(flags, env).settings;
const BASE = { OTEL_EXPORTER_OTLP_ENDPOINT: 'http://c:4318' };

test('nothing is sent unless something says where', () => {
  expect(settingsOf({})).toBeUndefined();
  expect(settingsOf({ OTEL_SERVICE_NAME: 'x', OTEL_EXPORTER_OTLP_ENDPOINT: ' ' })).toBeUndefined();
  expect(settingsOf({ ...BASE, OTEL_SDK_DISABLED: 'TRUE' })).toBeUndefined();
  expect(settingsOf({ ...BASE, OTEL_SDK_DISABLED: 'true' }, { traces: 'http://c' })).toBeUndefined();
  expect(settingsOf({ ...BASE, OTEL_TRACES_EXPORTER: 'none' })).toBeUndefined();
  expect(settingsOf(BASE, { traces: false })).toBeUndefined();
});

test('an address is a base, or where traces go; options win', () => {
  expect(settingsOf(BASE)?.url).toBe('http://c:4318/v1/traces');
  expect(settingsOf({ OTEL_EXPORTER_OTLP_ENDPOINT: 'https://c/otlp/' })?.url).toBe(
    'https://c/otlp/v1/traces',
  );
  const own = { ...BASE, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: 'http://t:1/x' };
  expect(settingsOf(own)?.url).toBe('http://t:1/x');
  expect(settingsOf({ OTEL_TRACES_EXPORTER: 'otlp' })?.url).toBe('http://localhost:4318/v1/traces');
  expect(settingsOf(own, { traces: 'http://o:4318' })?.url).toBe('http://o:4318/v1/traces');
  expect(settingsOf(own, { traces: 'http://o:4318/in' })?.url).toBe('http://o:4318/in');
});

test('the variables say how, those of traces before those of all', () => {
  expect(settingsOf(BASE)).toMatchObject({
    encoding: 'http/protobuf',
    headers: {},
    isGzip: false,
    timeoutMs: 10_000,
    tls: {},
    queue: 8_192,
    sampler: { name: 'parentbased_always_on' },
    resource: { 'service.name': 'cofa' },
  });
  const env = {
    ...BASE,
    OTEL_EXPORTER_OTLP_PROTOCOL: 'http/protobuf',
    OTEL_EXPORTER_OTLP_TRACES_PROTOCOL: 'http/json',
    OTEL_EXPORTER_OTLP_HEADERS: 'api-key=a%20b, x=1',
    OTEL_EXPORTER_OTLP_COMPRESSION: 'gzip',
    OTEL_EXPORTER_OTLP_TIMEOUT: '500',
    OTEL_TRACES_SAMPLER: 'traceidratio',
    OTEL_TRACES_SAMPLER_ARG: '0.5',
    OTEL_RESOURCE_ATTRIBUTES: 'service.name=other,deployment.environment.name=test%2C1',
    OTEL_SERVICE_NAME: 'mine',
    OTEL_BSP_MAX_QUEUE_SIZE: '10',
  };
  expect(tracesChoice({}, env)).toMatchObject({
    notes: [],
    settings: {
      encoding: 'http/json',
      headers: { 'api-key': 'a b', x: '1' },
      isGzip: true,
      timeoutMs: 500,
      queue: 10,
      sampler: { name: 'traceidratio', ratio: 0.5 },
      resource: { 'service.name': 'mine', 'deployment.environment.name': 'test,1' },
    },
  });
});

test('what is wrong in a variable is said, and counts as unset', () => {
  const choice = tracesChoice(
    {},
    {
      ...BASE,
      OTEL_EXPORTER_OTLP_HEADERS: 'a=1\r\nHost: x',
      OTEL_EXPORTER_OTLP_TIMEOUT: '-1',
      OTEL_EXPORTER_OTLP_CERTIFICATE: '/no/such/file',
      OTEL_EXPORTER_OTLP_COMPRESSION: 'zip',
      OTEL_TRACES_SAMPLER: 'xray',
      OTEL_RESOURCE_ATTRIBUTES: 'novalue',
    },
  );
  expect(choice.settings).toMatchObject({ headers: {}, timeoutMs: 10_000, isGzip: false, tls: {} });
  expect(choice.notes.map((note) => note.split(' ')[0])).toEqual(
    [
      'OTEL_EXPORTER_OTLP_HEADERS',
      'OTEL_EXPORTER_OTLP_COMPRESSION',
      'OTEL_EXPORTER_OTLP_TIMEOUT',
      'OTEL_EXPORTER_OTLP_CERTIFICATE',
      'OTEL_TRACES_SAMPLER',
      'OTEL_RESOURCE_ATTRIBUTES',
    ].sort(
      (a, b) =>
        choice.notes.findIndex((n) => n.startsWith(a)) - choice.notes.findIndex((n) => n.startsWith(b)),
    ),
  );
  expect(choice.notes).toHaveLength(6);
  expect(tracesChoice({}, { ...BASE, OTEL_EXPORTER_OTLP_PROTOCOL: 'grpc' })).toEqual({
    settings: undefined,
    notes: ['OTEL_EXPORTER_OTLP_PROTOCOL="grpc": cofa speaks http/protobuf and http/json; traces are off'],
  });
  expect(tracesChoice({}, { OTEL_EXPORTER_OTLP_ENDPOINT: 'http://user:secret@c' })).toMatchObject({
    settings: undefined,
    notes: [expect.not.stringContaining('secret')],
  });
});

test('what is wrong in an option is an error', async () => {
  for (const traces of ['c:4318', 'ftp://c', 'http://u:p@c', ''])
    expect(() => settingsOf({}, { traces })).toThrow(/is no URL/);
  expect(() => settingsOf({}, { tracesSample: 0.1 })).toThrow(/go with --traces/);
  expect(settingsOf(BASE, { tracesSample: 0.1 })?.sampler).toEqual({
    name: 'parentbased_traceidratio',
    ratio: 0.1,
  });

  const file = join(await cleanup.tempDir('traces'), 'headers');
  const headers = (text: string) => {
    writeFileSync(file, text);
    return settingsOf({}, { traces: 'http://c', tracesHeaders: file })?.headers;
  };
  writeFileSync(file, '', { mode: 0o644 });
  expect(() => headers('a: 1')).toThrow(/can be read by others/);
  chmodSync(file, 0o600);
  expect(headers('Authorization: Basic x=\n\nx-team = a:b\n')).toEqual({
    authorization: 'Basic x=',
    'x-team': 'a:b',
  });
  expect(() => headers('a: 1\nhost: evil')).toThrow(/line 2 is no header/);
  expect(() => headers('no header')).toThrow(/line 1 is no header/);
});
