import { connectionOf } from '../../src/fuse/connection.ts';
import { fuseNativeTransport } from '../../src/fuse/fuse-native-transport.ts';
import { acceptance } from './acceptance.ts';

acceptance('fuse-native', async (target, cold) => {
  const transport = await fuseNativeTransport({ target, cold });
  return { transport, connection: connectionOf(target) as number, close: () => transport.stop() };
});
