import { Pool as WholePool, ProxyAgent } from 'undici';
import { expect, it } from 'vitest';
import { Pool, proxyAgent } from '../../src/registry/undici-parts.ts';

// That they can be called without the index, transport.test.ts shows.
it('the parts of undici that are loaded one by one are those of its index', async () => {
  expect(Pool).toBe(WholePool);
  const agent = proxyAgent({ uri: 'http://127.0.0.1:1' });
  expect(agent).toBeInstanceOf(ProxyAgent);
  await agent.close();
});
