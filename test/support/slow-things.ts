/** What slows a start, for real: a registry, a DNS server, a disk and processors. */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { existsSync } from 'node:fs';
import { mkdir, readFile, rmdir, truncate, writeFile } from 'node:fs/promises';
import { createServer, request as send } from 'node:http';
import type { AddressInfo } from 'node:net';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** `program args…` becomes the rest of this command line. */
export type Through = string[];

/** A proxy before the registry on `port` that lets each request wait `delayMs` before it passes it on. */
export async function lateRegistry(
  port: number,
  delayMs: number,
): Promise<{ host: string; stop: () => Promise<void> }> {
  const server = createServer((request, response) => {
    void sleep(delayMs).then(() => {
      const { method, headers, url: path } = request;
      const upstream = send({ host: '127.0.0.1', port, method, headers, path }, (answer) => {
        response.writeHead(answer.statusCode ?? 502, answer.headers);
        answer.pipe(response);
      });
      upstream.on('error', () => response.destroy());
      request.pipe(upstream);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    host: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    stop: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** A DNS server on port 53 of a loopback address. It answers each question with 127.0.0.1, after `delayMs`. */
export async function lateDns(address: string, delayMs: number): Promise<{ stop: () => Promise<void> }> {
  const socket = createSocket('udp4');
  socket.on('message', (question, from) => {
    void sleep(delayMs).then(() => {
      try {
        socket.send(answerTo(question), from.port, from.address);
      } catch {
        // It was stopped meanwhile.
      }
    });
  });
  await new Promise<void>((resolve, reject) => {
    socket.once('error', reject);
    socket.bind(53, address, resolve);
  });
  return { stop: () => new Promise((resolve) => socket.close(() => resolve())) };
}

/** RFC 1035, 4.1: the question's id and name; for type A one record, for other types none. */
function answerTo(question: Buffer): Buffer {
  let end = 12;
  while ((question[end] ?? 0) !== 0) end += 1 + (question[end] as number);
  const asked = question.subarray(12, end + 5);
  const isA = question.readUInt16BE(end + 1) === 1;
  const head = Buffer.from([0, 0, 0x81, 0x80, 0, 1, 0, isA ? 1 : 0, 0, 0, 0, 0]);
  question.copy(head, 0, 0, 2);
  const record = Buffer.from([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 127, 0, 0, 1]);
  return Buffer.concat([head, asked, ...(isA ? [record] : [])]);
}

/** Runs a program with another resolv.conf, in a mount namespace of its own. */
export const withResolver = (file: string): Through => [
  'unshare',
  '--mount',
  '--propagation',
  'private',
  'sh',
  '-c',
  `mount --bind ${file} /etc/resolv.conf && exec "$@"`,
  'sh',
];

/**
 * A file system on a disk of its own, which writes so many times a second at most for those who come `through`. Undefined
 * where the machine has no cgroup that slows disks.
 */
export async function slowDisk(
  directory: string,
  writesPerSecond: number,
): Promise<{ root: string; through: Through; stop: () => Promise<void> } | undefined> {
  const blkio = '/sys/fs/cgroup/blkio';
  if (!existsSync(join(blkio, 'blkio.throttle.write_iops_device'))) return undefined;
  const image = join(directory, 'disk');
  const point = join(directory, 'disk.mount');
  // Not the mount itself: an engine's end unmounts what is below its root.
  const root = join(point, 'root');
  const cgroup = join(blkio, `cofa-slow-${process.pid}`);
  await writeFile(image, '');
  await truncate(image, 600 << 20);
  await mkdir(point, { recursive: true });
  await run('mkfs.ext4', ['-q', image]);
  await run('mount', ['-o', 'loop', image, point]);
  await mkdir(root);
  const { stdout } = await run('findmnt', ['-n', '-o', 'SOURCE', point]);
  const device = (await readFile(`/sys/block/${basename(stdout.trim())}/dev`, 'utf8')).trim();
  await mkdir(cgroup, { recursive: true });
  await writeFile(join(cgroup, 'blkio.throttle.write_iops_device'), `${device} ${writesPerSecond}`);
  return {
    root,
    through: ['sh', '-c', `echo $$ > ${cgroup}/cgroup.procs && exec "$@"`, 'sh'],
    stop: async () => {
      await run('umount', [point]);
      // The last of its processes may be ending.
      for (let tries = 50; ; tries--) {
        try {
          return await rmdir(cgroup);
        } catch (error) {
          if (tries === 0) throw error;
          await sleep(100);
        }
      }
    },
  };
}

/** Programs that compute and nothing else, each in a session of its own, so that each counts. */
export function burnProcessors(count: number): { stop: () => Promise<void> } {
  const burners: ChildProcess[] = Array.from({ length: count }, () =>
    spawn('perl', ['-e', '1 while 1'], { detached: true, stdio: 'ignore' }),
  );
  return {
    stop: async () => {
      for (const burner of burners) {
        const ended = new Promise((resolve) => burner.once('close', resolve));
        burner.kill('SIGKILL');
        await ended;
      }
    },
  };
}
