/** The manual in man(7)'s macros: cofa(1) from what `--help` prints, cofa-config.toml(5) from the options of `cofa up`. */
import { DEFAULT_CONFIG } from './config-file.ts';
import { configWords } from './config-sample.ts';
import type { DescribedCommand, DescribedOption, DescribedProgram } from './description.ts';
import { exitCodesHelp } from './failure.ts';

/** Of the release that the pages describe. */
export interface Edition {
  version: string;
  /** Such as 2026-12-01. */
  date: string;
}

/** cofa.1: every command on one page. */
export function commandsPage({ description, globals, commands }: DescribedProgram, edition: Edition): string {
  const groups = Map.groupBy(commands, ({ group }) => group);
  return [
    head('COFA', 1, edition),
    section('NAME', 'cofa \\- start containers before their image has arrived'),
    section('SYNOPSIS', '.B cofa\n.RI [ option ...]\n.I command\n.RI [ argument ...]'),
    section('DESCRIPTION', `${fill(description)}\n.PP\n${fill(BODY)}`),
    section('GLOBAL OPTIONS', globals.map(option).join('\n')),
    ...[...groups].map(([group, some]) =>
      section(group.replace(/:$/, '').toUpperCase(), some.flatMap(commandParts).join('\n')),
    ),
    section('EXIT STATUS', example(exitCodesHelp().trimEnd())),
    section('ENVIRONMENT', ENVIRONMENT.map(term).join('\n')),
    section('FILES', FILES.map(term).join('\n')),
    section('SEE ALSO', '.BR cofa\\-config.toml (5),\n.BR containerd (8),\n.BR systemctl (1)'),
  ].join('');
}

/** cofa-config.toml.5. */
export function configPage(edition: Edition): string {
  const keys = configWords().map(({ key, about, takes, fallback, line }) => {
    const holds = fallback === undefined ? '' : `\n.br\n${fill(`Without it: ${fallback}.`)}`;
    const sample = fallback === undefined ? `\n.br\n${fill('Such as:')}\n\\fB${verbatim(line)}\\fR` : '';
    return `.TP\n.B ${verbatim(key)}\n${fill(`${about}.`)}\n${fill(`Takes ${takes}.`)}${holds}${sample}`;
  });
  return [
    head('COFA-CONFIG.TOML', 5, edition),
    section('NAME', `cofa\\-config.toml \\- settings of cofa's engine`),
    section('SYNOPSIS', `.I ${verbatim(DEFAULT_CONFIG)}`),
    section('DESCRIPTION', CONFIG.map(fill).join('\n.PP\n')),
    section('SETTINGS', keys.join('\n')),
    section('SEE ALSO', '.BR cofa (1)'),
  ].join('');
}

const BODY =
  'A container reads about a tenth of its image while it starts. cofa mounts the whole image at once, and fetches each block when a program first reads it. "cofa up" starts the engine of a node, "cofa index" prepares an image, "cofa run" starts a container.';

const CONFIG = [
  `"cofa up" reads ${DEFAULT_CONFIG} if it is there; --config FILE or $COFA_CONFIG names another one, and --no-config none. The form is TOML. Each key is the name of an option of "cofa up"; an option on the command line wins.`,
  'The engine starts on no file that it does not understand as a whole: an unknown key, a wrong type, a bad value or a relative path ends "cofa up" with the line and what to do. So does a file that others than root may change, and one with a password that others may read. "cofa config check" says it before.',
  'Settings count from the next start of the engine on.',
];

const ENVIRONMENT = [
  ['COFA_ROOT', 'state of the engine, where --root does not say it'],
  ['COFA_CONFIG', 'the file of settings, where --config does not say it'],
  ['COFA_NATS', 'URL of a NATS to use, with a password where it has one: a command line can be read by all'],
  ['COFA_KEY_PASSWORD', 'passphrase of a private key: "cofa key create", "cofa index --sign"'],
  ['DOCKER_CONFIG', "folder of docker's config.json, with credentials of registries"],
  [
    'CONTAINERD_ADDRESS, CONTAINERD_NAMESPACE',
    'of "cofa pull", where --address and --namespace do not say it',
  ],
  [
    'OTEL_EXPORTER_OTLP_ENDPOINT',
    'where "cofa up" sends traces; other variables of OTEL_* are known as well',
  ],
  ['TRACEPARENT, TRACESTATE', 'the trace that "cofa run", "cofa mount" and "cofa pull" belong to'],
] as const;

const FILES = [
  [DEFAULT_CONFIG, 'settings of "cofa up"'],
  ['/etc/cofa/keys.d', 'keys and identities that may vouch for sidecars'],
  ['/etc/cofa/certs.d, /etc/docker/certs.d', "certificates of registries, in the layout of docker's certs.d"],
  ['/etc/containerd/certs.d', "mirrors, in containerd's hosts.toml"],
  ['/var/lib/cofa', 'state: blocks, images, the event log'],
] as const;

const term = ([name, about]: readonly [string, string]): string =>
  `.TP\n.B ${verbatim(name)}\n${fill(about)}`;

function commandParts(command: DescribedCommand): string[] {
  const { name, description, options, after, commands } = command;
  const words = command.arguments.map((one) => ` \\fI${verbatim(one.words)}\\fR`).join('');
  const some = options.length === 0 ? '' : ' \\fR[\\fIoption\\fR...]';
  return [
    `.SS cofa ${verbatim(name)}${some}${words}`,
    fill(description),
    ...command.arguments
      .filter(({ about }) => about !== '')
      .map((one) => `.TP\n.I ${verbatim(one.words)}\n${fill(one.about)}`),
    ...options.map(option),
    ...(after === '' ? [] : [`.PP\n${example(after)}`]),
    ...commands.flatMap(commandParts),
  ];
}

function option({ short, long, value, isOptional, about, fallback }: DescribedOption): string {
  const names = [short, long].filter((one) => one !== undefined).map((one) => `\\fB${verbatim(one)}\\fR`);
  const inner = isOptional ? `[=<${value?.replaceAll(/[[\]]/g, '')}>]` : ` ${value}`;
  const words = value === undefined ? '' : `\\fI${verbatim(inner)}\\fR`;
  const holds = fallback === undefined ? '' : ` (default: ${fallback})`;
  return `.TP\n${names.join(', ')}${words}\n${fill(about + holds)}`;
}

const head = (name: string, part: number, { version, date }: Edition): string =>
  `.TH ${verbatim(name)} ${part} ${date} "cofa ${version}" "cofa"\n`;

const section = (name: string, body: string): string => `.SH ${name}\n${body}\n`;

const example = (text: string): string => `.EX\n${text.split('\n').map(verbatim).join('\n')}\n.EE`;

/** Text for the formatter, in lines of at most 78 bytes. */
function fill(text: string): string {
  const lines: string[] = [''];
  for (const word of text.split(/\s+/).map(escaped)) {
    const last = lines.at(-1) as string;
    if (last !== '' && last.length + 1 + word.length > 78) lines.push(word);
    else lines[lines.length - 1] = last === '' ? word : `${last} ${word}`;
  }
  return lines.map(noRequest).join('\n');
}

/** One line as it stands: no request, no escape, hyphens that can be copied, any character. */
const verbatim = (line: string): string => noRequest(escaped(line));

const noRequest = (line: string): string => line.replace(/^(?=[.'])/, '\\&');

const escaped = (text: string): string =>
  text
    .replaceAll('\\', '\\e')
    .replaceAll('-', '\\-')
    .replaceAll(/[^\x20-\x7e]/gu, (one) => {
      const code = one.codePointAt(0)?.toString(16).toUpperCase().padStart(4, '0');
      return `\\[u${code}]`;
    });
