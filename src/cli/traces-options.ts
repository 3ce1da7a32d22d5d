/** Where an engine sends its traces: options of `cofa up`, beside OpenTelemetry's variables (src/traces/settings.ts). */
import { resolve } from 'node:path';
import { numberOption, oneOf } from './context.ts';
import { ENCODINGS } from '../traces/settings.ts';

const path = (text: string): string => resolve(text);

export const TRACES_OPTIONS = [
  {
    flags: '--traces <url>',
    about:
      'send traces of starts to this OpenTelemetry collector, by OTLP over HTTP (default: as OTEL_* says)',
    kind: 'string',
    sample: '"http://127.0.0.1:4318"',
  },
  { flags: '--no-traces', about: 'send none, whatever OTEL_* says' },
  {
    flags: '--traces-protocol <name>',
    about: `${ENCODINGS.join(' or ')} (default: http/protobuf)`,
    parse: oneOf('--traces-protocol', [...ENCODINGS]),
    kind: 'string',
    sample: '"http/json"',
  },
  {
    flags: '--traces-headers <file>',
    about: 'with the headers of this file, such as a password: NAME: VALUE a line, for its owner alone',
    parse: path,
    kind: 'path',
    sample: '"/etc/cofa/traces-headers"',
  },
  {
    flags: '--traces-ca <file>',
    about: 'authority that has signed the certificate of that collector',
    parse: path,
    kind: 'path',
    sample: '"/etc/cofa/traces-ca.pem"',
  },
  {
    flags: '--traces-sample <ratio>',
    about: 'of the traces that no caller has begun, 0 to 1 (default: 1)',
    parse: numberOption('--traces-sample', { min: 0, max: 1, integer: false }),
    kind: 'number',
    sample: '0.1',
  },
] as const;
