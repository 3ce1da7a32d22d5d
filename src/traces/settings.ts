/**
 * Where traces are sent: by options of `cofa up`, and by OpenTelemetry's environment variables
 * (https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/, …/protocol/exporter/). Options win.
 *
 * `OTEL_SDK_DISABLED=true` alone wins over them: it switches off what a file of settings switches on.
 *
 * What is wrong in an option is an error. A variable may be meant for other programs, so what is wrong in one is a note, and it counts as
 * unset: the specification wants that. Without an address nothing is sent.
 */
import { readFileSync, statSync } from 'node:fs';
import { CofaError } from '../../schemas/errors.ts';
import type { Encoding } from './otlp.ts';
import { SAMPLERS, type SamplerSettings } from './sampler.ts';

export interface TracesSettings {
  /** `http://…` or `https://…`, with the path. */
  url: string;
  encoding: Encoding;
  /** They may carry a password: never logged, never on a command line. */
  headers: Readonly<Record<string, string>>;
  isGzip: boolean;
  /** For a request, ms. */
  timeoutMs: number;
  /** PEM. */
  tls: { ca?: string; cert?: string; key?: string };
  sampler: SamplerSettings;
  /** Attributes of all spans, beside those that the engine knows. */
  resource: Readonly<Record<string, string>>;
  /** Spans that wait at most, that a request has at most, and how long they are collected, ms. */
  queue: number;
  batch: number;
  delayMs: number;
}

/** Options of `cofa up`. */
export interface TracesFlags {
  /** A URL; false: nothing is sent, whatever the environment says. */
  traces?: string | boolean | undefined;
  tracesProtocol?: string | undefined;
  /** Files. */
  tracesHeaders?: string | undefined;
  tracesCa?: string | undefined;
  tracesSample?: number | undefined;
}

export type Env = Readonly<Record<string, string | undefined>>;

export interface TracesChoice {
  /** Undefined: traces are off. */
  settings: TracesSettings | undefined;
  /** Sentences about variables that were passed over. */
  notes: string[];
}

export const ENCODINGS: readonly Encoding[] = ['http/protobuf', 'http/json'];
/** Where OTLP's collectors listen, and the path of traces there. */
const COLLECTOR = 'http://localhost:4318';
const PATH = '/v1/traces';
/** Bytes of a file of headers, a certificate; headers, and letters of one. */
const MOST_FILE = 1 << 20;
const MOST_HEADERS = 64;
const MOST_ATTRIBUTES = 128;
const LONGEST = 8_192;
const SAMPLER: SamplerSettings = { name: 'parentbased_always_on', ratio: 1 };

/** Errors `invalid-argument`: of options, and of the files that they name. */
export function tracesChoice(flags: TracesFlags, variables: Env): TracesChoice {
  const env = new Variables(variables);
  const off = { settings: undefined, notes: env.notes };
  const { traces } = flags;
  if (traces === false || env.isDisabled) return off;
  const said = typeof traces === 'string' ? optionUrl(traces) : undefined;
  if (
    said === undefined &&
    Object.entries(flags).some(([name, value]) => name !== 'traces' && value !== undefined)
  )
    if (env.url() === undefined)
      throw new CofaError(
        'invalid-argument',
        '--traces-protocol, -headers, -ca and -sample go with --traces',
      );
  if (said === undefined && env.isElsewhere) return off;
  const url = said ?? env.url();
  const encoding = flags.tracesProtocol === undefined ? env.encoding() : optionEncoding(flags.tracesProtocol);
  if (url === undefined || encoding === undefined) return off;
  const { tracesHeaders: headers, tracesCa: ca, tracesSample: ratio } = flags;
  const settings: TracesSettings = {
    url,
    encoding,
    headers: headers === undefined ? env.headers() : headersIn(headers),
    isGzip: env.isGzip(),
    timeoutMs: env.number(env.traceName('TIMEOUT'), 10_000, { least: 1, most: 600_000 }),
    tls: { ...env.tls(), ...(ca === undefined ? {} : { ca: fileText('--traces-ca', ca) }) },
    sampler: ratio === undefined ? env.sampler() : { name: 'parentbased_traceidratio', ratio },
    resource: env.resource(),
    queue: env.number('OTEL_BSP_MAX_QUEUE_SIZE', 8_192, { least: 1, most: 1 << 20 }),
    batch: env.number('OTEL_BSP_MAX_EXPORT_BATCH_SIZE', 512, { least: 1, most: 8_192 }),
    delayMs: env.number('OTEL_BSP_SCHEDULE_DELAY', 5_000, { least: 0, most: 600_000 }),
  };
  return { settings, notes: env.notes };
}

/** OpenTelemetry's variables. What is empty counts as unset; each note names its variable. */
class Variables {
  readonly notes: string[] = [];
  readonly #env: Env;

  constructor(env: Env) {
    this.#env = env;
  }

  get isDisabled(): boolean {
    return this.#text('OTEL_SDK_DISABLED')?.toLowerCase() === 'true';
  }

  /** Traces go elsewhere than by OTLP, or nowhere. */
  get isElsewhere(): boolean {
    const exporter = this.#text('OTEL_TRACES_EXPORTER');
    return exporter !== undefined && exporter !== 'otlp';
  }

  url(): string | undefined {
    const own = this.#text('OTEL_EXPORTER_OTLP_TRACES_ENDPOINT');
    if (own !== undefined) return this.#url('OTEL_EXPORTER_OTLP_TRACES_ENDPOINT', own);
    const all = this.#text('OTEL_EXPORTER_OTLP_ENDPOINT');
    if (all !== undefined) {
      const base = this.#url('OTEL_EXPORTER_OTLP_ENDPOINT', all);
      return base === undefined ? undefined : `${base.replace(/\/+$/, '')}${PATH}`;
    }
    return this.#text('OTEL_TRACES_EXPORTER') === 'otlp' ? `${COLLECTOR}${PATH}` : undefined;
  }

  encoding(): Encoding | undefined {
    const name = this.traceName('PROTOCOL');
    const said = this.#text(name);
    if (said === undefined) return 'http/protobuf';
    const found = ENCODINGS.find((one) => one === said);
    if (found === undefined)
      this.notes.push(`${name}=${shown(said)}: cofa speaks ${ENCODINGS.join(' and ')}; traces are off`);
    return found;
  }

  isGzip(): boolean {
    const name = this.traceName('COMPRESSION');
    const said = this.#text(name);
    if (said !== undefined && said !== 'gzip' && said !== 'none') this.#passOver(name, 'it is gzip or none');
    return said === 'gzip';
  }

  headers(): Record<string, string> {
    const name = this.traceName('HEADERS');
    const found = pairsIn(this.#text(name) ?? '', MOST_HEADERS);
    if (found !== undefined && Object.entries(found).every(isHeader)) return found;
    this.#passOver(name, 'it is no list of NAME=VALUE, with commas between them');
    return {};
  }

  tls(): TracesSettings['tls'] {
    const file = (suffix: string) => {
      const name = this.traceName(suffix);
      const path = this.#text(name);
      if (path === undefined) return undefined;
      try {
        return fileText(name, path);
      } catch (error) {
        this.#passOver(name, (error as Error).message);
        return undefined;
      }
    };
    const [ca, cert, key] = [file('CERTIFICATE'), file('CLIENT_CERTIFICATE'), file('CLIENT_KEY')];
    return {
      ...(ca === undefined ? {} : { ca }),
      ...(cert === undefined || key === undefined ? {} : { cert, key }),
    };
  }

  sampler(): SamplerSettings {
    const said = this.#text('OTEL_TRACES_SAMPLER');
    if (said === undefined) return SAMPLER;
    const name = SAMPLERS.find((one) => one === said);
    if (name === undefined) {
      this.#passOver('OTEL_TRACES_SAMPLER', `it is none of ${SAMPLERS.join(', ')}`);
      return SAMPLER;
    }
    if (!name.endsWith('traceidratio')) return { name, ratio: 1 };
    return { name, ratio: this.number('OTEL_TRACES_SAMPLER_ARG', 1, { least: 0, most: 1, isWhole: false }) };
  }

  resource(): Record<string, string> {
    const found = pairsIn(this.#text('OTEL_RESOURCE_ATTRIBUTES') ?? '', MOST_ATTRIBUTES);
    if (found === undefined)
      this.#passOver('OTEL_RESOURCE_ATTRIBUTES', 'it is no list of NAME=VALUE, with commas between them');
    const service = this.#text('OTEL_SERVICE_NAME')?.slice(0, 255);
    return {
      'service.name': 'cofa',
      ...found,
      ...(service === undefined ? {} : { 'service.name': service }),
    };
  }

  number(
    name: string,
    otherwise: number,
    { least, most, isWhole = true }: { least: number; most: number; isWhole?: boolean },
  ): number {
    const said = this.#text(name);
    if (said === undefined) return otherwise;
    const value = Number(said);
    if (value >= least && value <= most && (!isWhole || Number.isInteger(value))) return value;
    this.#passOver(name, `it is no ${isWhole ? 'whole ' : ''}number from ${least} to ${most}`);
    return otherwise;
  }

  /** The variable of traces alone, where it says something; else that of all of OTLP. */
  traceName(suffix: string): string {
    const own = `OTEL_EXPORTER_OTLP_TRACES_${suffix}`;
    return this.#text(own) === undefined ? `OTEL_EXPORTER_OTLP_${suffix}` : own;
  }

  #text(name: string): string | undefined {
    const text = this.#env[name]?.trim();
    return text === '' ? undefined : text;
  }

  #url(name: string, text: string): string | undefined {
    const found = urlOf(text);
    if (found === undefined) this.#passOver(name, 'it is no URL of http or https without a password');
    return found?.href;
  }

  #passOver(name: string, why: string): void {
    this.notes.push(`${name} is passed over: ${why}`);
  }
}

/** The base of a collector, or the whole address where it has a path. */
function optionUrl(text: string): string {
  const url = urlOf(text);
  if (url === undefined)
    throw new CofaError('invalid-argument', `--traces ${shown(text)} is no URL of http or https`, {
      hint: `such as ${COLLECTOR}; passwords go into the file of --traces-headers`,
    });
  if (url.pathname === '/') url.pathname = PATH;
  return url.href;
}

function urlOf(text: string): URL | undefined {
  const url = text.length <= LONGEST ? URL.parse(text) : null;
  if (url === null || !/^https?:$/.test(url.protocol) || url.username !== '' || url.password !== '')
    return undefined;
  return url;
}

function optionEncoding(text: string): Encoding {
  const found = ENCODINGS.find((one) => one === text);
  if (found !== undefined) return found;
  throw new CofaError('invalid-argument', `--traces-protocol ${shown(text)}: ${ENCODINGS.join(' or ')}`);
}

/** `NAME: VALUE` or `NAME=VALUE` a line; its owner alone may read it. Error `invalid-argument`. */
function headersIn(path: string): Record<string, string> {
  const text = fileText('--traces-headers', path);
  if ((statSync(path).mode & 0o077) !== 0) {
    throw new CofaError('invalid-argument', `--traces-headers ${path} can be read by others than its owner`, {
      hint: `chmod 600 ${path}`,
    });
  }
  const lines = text.split(/\r?\n/).filter((line) => line.trim() !== '');
  const found = lines.map((line): [string, string] => {
    const [, name = '', value = ''] = /^([^:=]*)[:=](.*)$/.exec(line) ?? [];
    return [name.trim().toLowerCase(), value.trim()];
  });
  const wrong = found.findIndex((one) => !isHeader(one));
  if (wrong >= 0 || found.length > MOST_HEADERS) {
    const where = wrong >= 0 ? `line ${wrong + 1} is no header` : `there are more than ${MOST_HEADERS}`;
    throw new CofaError('invalid-argument', `--traces-headers ${path}: ${where}`, {
      hint: 'a line a header: NAME: VALUE',
    });
  }
  return Object.fromEntries(found);
}

/** Headers that belong to the request itself. */
const OWN = new Set([
  'host',
  'content-length',
  'content-type',
  'content-encoding',
  'transfer-encoding',
  'connection',
]);

const isHeader = ([name, value]: [string, string]): boolean =>
  /^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}$/.test(name) &&
  !OWN.has(name.toLowerCase()) &&
  value.length <= LONGEST &&
  /^[\t\x20-\x7e\x80-\xff]*$/.test(value);

/** `NAME=VALUE,…`, percent-encoded as in W3C's baggage; undefined where it is none. */
function pairsIn(text: string, most: number): Record<string, string> | undefined {
  const pairs = text.split(',').filter((pair) => pair.trim() !== '');
  if (pairs.length > most) return undefined;
  const found: Record<string, string> = {};
  for (const pair of pairs) {
    const [, name = '', value = ''] = /^([^=]+)=(.*)$/s.exec(pair) ?? [];
    try {
      const key = decodeURIComponent(name.trim());
      if (key === '' || pair.length > LONGEST) return undefined;
      found[key] = decodeURIComponent(value.trim());
    } catch {
      return undefined;
    }
  }
  return found;
}

function fileText(option: string, path: string): string {
  try {
    if (statSync(path).size > MOST_FILE) throw new Error('it has more than 1 MiB');
    return readFileSync(path, 'utf8');
  } catch (cause) {
    throw new CofaError('invalid-argument', `${option} ${path}: ${(cause as Error).message}`, { cause });
  }
}

const shown = (text: string): string => JSON.stringify(text.slice(0, 100));
