/** The engine, for as long as a command needs it. */
import { connectEngine, type EngineClient } from '../client/client.ts';
import { otherProtocol } from '../client/protocol.ts';
import type { Context } from './context.ts';

/**
 * Connects to the engine of the context's root, and says so where it speaks another protocol. Errors: `not-running` and
 * `unsupported` of `connectEngine`; those of `use`.
 */
export async function withEngine<T>(context: Context, use: (engine: EngineClient) => Promise<T>): Promise<T> {
  const engine = await connectEngine(context.root);
  try {
    const remark = await otherProtocol(engine.endpoint);
    if (remark !== undefined) context.output.note(remark);
    return await use(engine);
  } finally {
    await engine.close();
  }
}
