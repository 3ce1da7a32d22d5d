/** The parts of a running engine, made from what its log says, and the front end's notices to them. */
import type { NatsConnection } from '@nats-io/nats-core';
import type { Subjects } from '../../../schemas/subjects.ts';
import { routeNotices } from '../notices.ts';
import { type ImageParts, type ImagePartsOptions, makeImages } from './images.ts';
import { makeMounts, type MountParts, type MountPartsOptions } from './mounts.ts';
import type { Servers } from './servers.ts';

export type Parts = ImageParts & MountParts;

/** Where notices come from, and what acts on them beside the parts. */
export interface NoticeSources extends Pick<Servers, 'doubts'> {
  bus: NatsConnection;
  names: Subjects;
}

export function makeParts(
  given: ImagePartsOptions & Omit<MountPartsOptions, keyof ImageParts> & NoticeSources,
): Parts {
  const { bus, names, devices, doubts, conditions } = given;
  const imageParts = makeImages(given);
  const mountParts = makeMounts({ ...given, ...imageParts });
  routeNotices(bus, names, {
    whole: () => imageParts.trust.poke(),
    complete: ({ diffId }) => devices.handOver(diffId),
    'take-back': ({ diffId }) => devices.takeBack(diffId),
    astray: ({ diffId }) => imageParts.newTables.make(diffId),
    checked: ({ diffId }) => doubts.compared(diffId),
    corrupt: ({ diffId, message }) => conditions.set(`corrupt:${diffId}`, message),
  });
  return { ...imageParts, ...mountParts };
}
