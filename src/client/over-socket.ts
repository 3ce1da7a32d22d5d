/** Calls over the supervisor's socket: no NATS client has to be loaded, which is a third of what `cofa run` costs. */
import { isProgress } from '../../schemas/check-progress.ts';
import { askSocket } from '../bus/local-socket.ts';
import type { Transport } from './call.ts';

/** `path`: of the socket. */
export function overSocket(path: string): Transport {
  return {
    ask: async (operation, request, { signal, onProgress }) =>
      await askSocket(path, operation, {
        // A question changes nothing: one that breaks off may be asked again on another way.
        request: operation === 'status' ? undefined : request,
        signal,
        onProgress:
          onProgress &&
          ((progress) => {
            if (isProgress(progress)) onProgress(progress);
          }),
      }),
    close: async () => {},
  };
}
