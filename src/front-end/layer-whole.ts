/**
 * What happens when every block of a layer is present: the device is compared with the diffID, the log and the supervisor hear
 * that the layer is whole, and it is offered to the kernel, which may read it from then on without cofa.
 */
import { type LayerCore, RETRY_APPEND_MS } from './layer-core.ts';
import type { LayerHost } from './layer-host.ts';
import type { LayerWriter } from './layer-writer.ts';

/** How often a complete layer that is watched is looked at again, ms. */
const WATCHED_MS = 500;

export class LayerWhole {
  readonly #core: LayerCore;
  readonly #writer: LayerWriter;
  readonly #host: LayerHost;
  /** How often the layer has become whole: an answer about an earlier time is known by it. */
  #turn = 0;
  /** The layer is complete, and that is about to be said. */
  #mustSay = false;
  #saying = false;
  /** A hand-over is about to be offered. */
  #offering = false;
  #direct: boolean;
  /** The turn in which the device was not its layer, though the disk has every block as the span table says. */
  #doubted: number | undefined;

  constructor(core: LayerCore, writer: LayerWriter, host: LayerHost) {
    this.#core = core;
    this.#writer = writer;
    this.#host = host;
    this.#direct = core.options.layer.direct;
  }

  /** Whether the kernel reads the device file itself, or may be about to: then none of its bytes may be punched. */
  get isDirect(): boolean {
    return this.#direct;
  }

  // ── Is it the layer? ──

  /** Every block is there: is it the layer that the image names? */
  async verify(): Promise<void> {
    await this.#verify(++this.#turn);
  }

  /**
   * A check that was lost, or is late, may end when blocks have been evicted and fetched since: it has read what was there in
   * between, and says nothing (`turn`).
   */
  async #verify(turn: number): Promise<void> {
    const { layer, pool, log } = this.#core.options;
    // What the check reads must be what a crash would leave.
    await this.#writer.flush().catch((error: unknown) => log.warn({ error }, 'blocks not in the log yet'));
    if (!this.#isVerifying(turn)) return;
    pool.submit(
      { kind: 'verify', layer: layer.diffId, diffId: layer.content, size: layer.table.rawSize },
      {
        blocks: () => {},
        end: (_, failure) => {
          if (!this.#isVerifying(turn)) return;
          if (failure === undefined) this.#core.send({ type: 'verified', ok: true, now: this.#core.now() });
          else if (failure.error.code === 'integrity') void this.#mismatch(turn);
          else this.#verifyLater(turn);
        },
      },
      // Readers are answered meanwhile.
      { rest: 0 },
    );
  }

  #isVerifying(turn: number): boolean {
    return !this.#core.isClosed && turn === this.#turn && this.#core.actor.state === 'verifying';
  }

  #verifyLater(turn: number): void {
    const again = () => {
      if (this.#isVerifying(turn)) void this.#verify(turn);
    };
    this.#core.options.clock.after(RETRY_APPEND_MS, again).unref();
  }

  /** The disk, or the span table? A table whose blocks are all there and right leads to the diffID. */
  async #mismatch(turn: number): Promise<void> {
    const { on, log } = this.#core.options;
    try {
      const isDamaged = await on.mismatch(this.#host);
      if (isDamaged || !this.#isVerifying(turn)) return;
      // A job whose blocks all came late for others may have written over the damaged one meanwhile.
      const isSecond = this.#doubted === turn;
      this.#doubted = turn;
      if (isSecond) this.#core.send({ type: 'verified', ok: false, now: this.#core.now() });
      else await this.#verify(turn);
    } catch (error) {
      log.warn({ layer: this.#core.diffId, error }, 'a device that is not its layer was not compared');
      if (this.#isVerifying(turn)) this.#verifyLater(turn);
    }
  }

  async corrupt(): Promise<void> {
    const { diffId } = this.#core;
    const { content } = this.#core.options.layer;
    const message = `layer ${content}: its blocks pass the span table's checks, but together they are not the layer`;
    this.#core.options.on.notify({ kind: 'corrupt', diffId, message });
    await this.#writer.record({ type: 'layer.dropped', reason: 'corrupt', message }, () => true);
  }

  // ── It is: who hears of it ──

  /** Says once more that the layer is complete, where it is: the supervisor may not have heard it. */
  announce(): void {
    if (this.#isComplete) void this.completed();
  }

  /** It may become incomplete and complete again while its last completion waits for the log, or for a hand-over. */
  async completed(): Promise<void> {
    this.#mustSay = true;
    if (this.#saying) return;
    this.#saying = true;
    try {
      while (this.#mustSay) {
        this.#mustSay = false;
        await this.#sayWhole();
      }
    } finally {
      this.#saying = false;
    }
    await this.#offerLater();
  }

  async #sayWhole(): Promise<void> {
    const { diffId } = this.#core;
    const { content } = this.#core.options.layer;
    // What the log may not know yet is that blocks were damaged, and so that the layer was not complete for a while.
    const isLogged =
      (!this.#writer.hasUnsaid && this.#core.isKnown('complete')) ||
      (await this.#writer.record({ type: 'layer.completed', digest: content }, () => this.#isComplete));
    if (isLogged && !this.#core.isClosed) this.#core.options.on.notify({ kind: 'whole', diffId });
  }

  get #isComplete(): boolean {
    return this.#core.actor.state === 'complete';
  }

  // ── Hand-over ──

  /** Says that the layer may be handed over, when the front end need not see its reads any more. */
  async #offerLater(): Promise<void> {
    if (this.#offering) return;
    this.#offering = true;
    const { on, clock } = this.#core.options;
    while (on.isWatched() && !this.#core.isClosed) await clock.sleep(WATCHED_MS);
    this.#offering = false;
    const { diffId } = this.#core;
    if (!this.#core.isClosed && this.#isComplete && this.#core.isKnown('complete'))
      on.notify({ kind: 'complete', diffId });
  }

  /** Says again that the layer could be handed over, if it could. */
  offer(): void {
    const { on } = this.#core.options;
    if (!this.#isComplete || this.#direct || on.isWatched() || !this.#core.isKnown('complete')) return;
    on.notify({ kind: 'complete', diffId: this.#core.diffId });
  }

  /** The kernel reads the device file itself, whatever the log says. */
  pin(): void {
    this.#direct = true;
    this.handedOver();
  }

  /** The kernel is about to read the device file itself, where the actor allows it. */
  handedOver(): void {
    const { actor } = this.#core;
    this.#core.send({ type: 'handed-over' });
    if (actor.state !== 'handed-over') return;
    this.#direct = true;
    if (this.#core.isKnown('handedOver')) return;
    void this.#writer.record({ type: 'layer.handed-over' }, () => actor.state === 'handed-over');
  }

  /** Reads are about to come through cofa again; until `takenBack` the kernel may still read the device file itself. */
  async takeBack(): Promise<void> {
    if (this.#core.isKnown('handedOver'))
      await this.#writer.inTurn(() => this.#writer.append({ type: 'layer.taken-back' }));
  }

  /** Every read comes through cofa again. */
  takenBack(): void {
    this.#direct = false;
    this.#core.send({ type: 'taken-back' });
  }
}
