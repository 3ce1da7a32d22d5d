/** Where an engine serves its metrics: options of `cofa up`. */
import { resolve } from 'node:path';
import { CofaError } from '../../schemas/errors.ts';
import { checkMetrics, metricsAddress, type MetricsSettings } from '../metrics/address.ts';
import { numberOption } from './context.ts';

export interface MetricsFlags {
  metrics?: string;
  metricsCert?: string;
  metricsKey?: string;
  metricsAuth?: string;
  metricsImages: number;
}

const path = (text: string): string => resolve(text);

export const METRICS_OPTIONS = [
  {
    flags: '--metrics <address>',
    about: 'serve metrics for Prometheus: PORT (of 127.0.0.1), HOST:PORT or unix:PATH (default: off)',
    kind: 'string',
    sample: '"127.0.0.1:9464"',
  },
  {
    flags: '--metrics-cert <file>',
    about: 'by HTTPS, with this certificate (PEM)',
    parse: path,
    kind: 'path',
    sample: '"/etc/cofa/metrics.pem"',
  },
  {
    flags: '--metrics-key <file>',
    about: 'its key, which its owner alone may read',
    parse: path,
    kind: 'path',
    sample: '"/etc/cofa/metrics-key.pem"',
  },
  {
    flags: '--metrics-auth <file>',
    about: 'to those who log in with USER:PASSWORD, the first line of this file',
    parse: path,
    kind: 'path',
    sample: '"/etc/cofa/metrics-login"',
  },
  {
    flags: '--metrics-images <n>',
    about: 'series for each of the N largest images; their names are labels then',
    parse: numberOption('--metrics-images', { min: 0, max: 1000, integer: true }),
    fallback: 0,
    kind: 'number',
  },
] as const;

/** Undefined: metrics are off. Errors `invalid-argument`: those of `metricsAddress` and `checkMetrics`. */
export function metricsChoice(flags: MetricsFlags): MetricsSettings | undefined {
  const { metrics, metricsCert: cert, metricsKey: key, metricsAuth: auth, metricsImages: images } = flags;
  if (metrics === undefined) {
    if (cert === undefined && key === undefined && auth === undefined && images === 0) return undefined;
    throw new CofaError('invalid-argument', '--metrics-cert, -key, -auth and -images go with --metrics');
  }
  if ((cert === undefined) !== (key === undefined))
    throw new CofaError('invalid-argument', '--metrics-cert and --metrics-key go together');
  const settings: MetricsSettings = {
    address: metricsAddress(metrics),
    ...(cert === undefined || key === undefined ? {} : { tls: { cert, key } }),
    ...(auth === undefined ? {} : { auth }),
    images,
  };
  checkMetrics(settings);
  return settings;
}
