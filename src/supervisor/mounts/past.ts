/** Where there are or were mounts, as far as the log still tells. */
import type { Subjects } from '../../../schemas/subjects.ts';
import type { EventLog } from '../../store/event-log.ts';
import { type Place, removeMade } from './directory.ts';

/** By directory: what the last of them said of it. */
export async function pastMounts(
  events: EventLog,
  names: Subjects,
): Promise<Map<string, Place & { made?: true | undefined }>> {
  const past = new Map<string, Place & { made?: true | undefined }>();
  for await (const { event } of events.read(names.eventsOf('mount')))
    if (event.type === 'mount.requested') past.set(event.dir, event);
  return past;
}

/** Removes those of the folders, where mounts have ended, that were made for them. */
export async function removeFolders(
  dirs: readonly string[],
  events: EventLog,
  names: Subjects,
): Promise<void> {
  const past = await pastMounts(events, names);
  for (const dir of dirs) {
    const place = past.get(dir);
    if (place?.made === true) await removeMade(place);
  }
}
