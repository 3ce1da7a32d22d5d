/** Ports of loopback. */
import { randomInt } from 'node:crypto';
import { createServer } from 'node:net';

/**
 * One that was free a moment ago. Its taker binds it a while later, on a busy machine a long while: it is none of those that the
 * kernel gives to connections and to servers that take any (32768 and above).
 */
export async function freePort(): Promise<number> {
  for (let tries = 1; ; tries++) {
    const port = randomInt(12_000, 32_000);
    try {
      await listen(port);
      return port;
    } catch (error) {
      if (tries === 100 || (error as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw error;
    }
  }
}

/** Listens there for a moment. */
async function listen(port: number): Promise<void> {
  const server = createServer();
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, '127.0.0.1', resolve);
  });
  await new Promise((resolve) => server.close(resolve));
}
