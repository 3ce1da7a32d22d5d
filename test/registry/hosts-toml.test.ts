import { expect, test } from 'vitest';
import { parseHosts } from '../../src/registry/hosts-toml.ts';

const hosts = (text: string) => parseHosts(text, '/etc/certs/r');

test('the file of containerd’s documentation', () => {
  const [first, second, server] = hosts(`
    server = "https://registry-1.docker.io"

    [host."https://mirror.example"]
      capabilities = ["pull", "Resolve"]
      ca = "docker-mirror.crt"
      dial_timeout = "1m0.5s"

    [host."http://10.0.0.1:5000/v2/proxy"]
      ca = ["/a.crt", "b.crt"]
      client = [["/c.cert", "c.key"], "both.pem"]
      skip_verify = true
      override_path = true
      [host."http://10.0.0.1:5000/v2/proxy".header]
        x-one = "1"
        x-two = ["a", "b"]
  `);
  expect(first).toMatchObject({
    origin: 'https://mirror.example',
    path: '/v2',
    capabilities: new Set(['pull', 'resolve']),
    ca: ['/etc/certs/r/docker-mirror.crt'],
    dialTimeoutMs: 60_500,
    skipVerify: false,
  });
  expect(second).toMatchObject({
    origin: 'http://10.0.0.1:5000',
    path: '/v2/proxy',
    capabilities: new Set(['pull', 'resolve', 'push', 'referrers']),
    ca: ['/a.crt', '/etc/certs/r/b.crt'],
    client: [
      ['/c.cert', '/etc/certs/r/c.key'],
      ['/etc/certs/r/both.pem', '/etc/certs/r/both.pem'],
    ],
    skipVerify: true,
    headers: { 'x-one': '1', 'x-two': 'a, b' },
  });
  expect(server).toMatchObject({ origin: 'https://registry-1.docker.io', path: '/v2' });
});

test('a file without a server means the registry itself; docker.io means where it is served', () => {
  expect(hosts('')).toMatchObject([{ origin: undefined, path: '/v2' }]);
  expect(hosts('server = "docker.io"')).toMatchObject([{ origin: 'https://registry-1.docker.io' }]);
  expect(hosts('[host."a.example:5000/x/"]\n[host."b.example"]')).toMatchObject([
    { origin: 'https://a.example:5000', path: '/x/v2' },
    { origin: 'https://b.example' },
    {},
  ]);
});

test.each([
  ['what is no TOML', 'a = [', /not TOML/],
  ['an address with a password', 'server = "https://u:p@h"', /^server is not http/],
  ['another protocol', '[host."httpx://h"]', /^host\."httpx:\/\/h" is not http/],
  ['an unknown capability', 'capabilities = ["pull", "all"]', /^capabilities has "all"/],
  ['a header that would end the line', '[header]\nx = "a\\r\\nb: c"', /^header\.x is not a header/],
  ['a header of the protocol', '[header]\nHost = "h"', /^header\.Host/],
  [
    'a duration without a unit',
    '[host.h]\ndial_timeout = "3"',
    /^host\."h"\.dial_timeout "3" is not a duration/,
  ],
  ['a host that is no table', 'host = "h"', /^host is not a table/],
  ['a client of three files', 'client = [["a", "b", "c"]]', /^client has something/],
  [
    'too many hosts',
    Array.from({ length: 40 }, (_, at) => `[host."h${at}"]`).join('\n'),
    /^host has 40 hosts/,
  ],
])('%s is refused, by name', (_, text, message) => {
  expect(() => hosts(text)).toThrow(message);
});
