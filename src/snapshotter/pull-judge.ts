/**
 * What a kubelet's pull has brought is looked at before the kubelet hears of it: containerd takes a manifest or a chain of
 * layers that it has in its namespace for the image's own, whatever registry names them. An image that may not use what the
 * node has is taken out of containerd again, and its pull fails (docs/private-images.md).
 */
import { fromBinary } from '@bufbuild/protobuf';
import { Code } from '@connectrpc/connect';
import type { Logger } from 'pino';
import { CofaError, toErrorRecord } from '../../schemas/errors.ts';
import type { CallEngine } from '../client/call.ts';
import { connectContainerd, type ContainerdClient, isCode } from '../containerd/client.ts';
import { PullImageResponseSchema } from '../containerd/generated/runtime/v1/cri_pb.ts';
import { nameOf } from '../containerd/pull.ts';
import { pulledImage } from '../containerd/pulled-image.ts';
import { parseReference, type Reference } from '../registry/reference.ts';

/** The kubelet's. */
const NAMESPACE = 'k8s.io';
/** A layer may have to be read to its end, ms; the engine reads on when this ends, and the next pull has the answer. */
const ADMIT_MS = 300_000;
/** An engine that starts again is waited for, ms. */
const PATIENCE_MS = 20_000;

export class PullJudge {
  readonly #call: CallEngine;
  readonly #containerd: ContainerdClient;
  readonly #log: Logger;

  constructor(options: { containerd: string; call: CallEngine; log: Logger }) {
    this.#call = options.call;
    this.#containerd = connectContainerd(options.containerd, NAMESPACE);
    this.#log = options.log;
  }

  /**
   * Resolves when the image may be used; `ref`: as the kubelet named it, `response`: PullImageResponse. Errors:
   * `unauthorized` when it may not, others where that is not known.
   */
  async judge(ref: string, response: Uint8Array): Promise<void> {
    const reference = parseReference(ref);
    const { imageRef } = fromBinary(PullImageResponseSchema, response);
    try {
      const image = await pulledImage(this.#containerd, nameOf(reference), imageRef);
      const patient = { timeoutMs: ADMIT_MS, patienceMs: PATIENCE_MS };
      const { admitted } = await this.#call('admit', { ref, ...image }, patient);
      if (admitted) return;
      throw new CofaError(
        'unauthorized',
        `${ref} names layers that this node has from another repository, and its registry has not given them`,
      );
    } catch (error) {
      this.#log.warn({ ref, error: toErrorRecord(error) }, 'a pulled image is taken out of containerd again');
      // A kubelet starts what is there, also after a pull that failed.
      await this.#forget(reference);
      throw error;
    }
  }

  close(): void {
    this.#containerd.close();
  }

  /** The name, and the one by digest that containerd has given it beside. */
  async #forget(reference: Reference): Promise<void> {
    const { images } = this.#containerd;
    const name = nameOf(reference);
    const { image } = await images.get({ name }).catch(absent);
    const { domain, repository } = reference;
    const names = new Set([name, `${domain}/${repository}@${image?.target?.digest ?? ''}`]);
    for (const one of names) await images.delete({ name: one }).catch(absent);
  }
}

function absent(error: unknown): { image?: undefined } {
  if (isCode(error, Code.NotFound)) return {};
  throw error;
}
