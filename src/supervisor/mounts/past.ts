/** Where there are or were mounts, as far as the log still tells. */
import { rmdir } from 'node:fs/promises';
import type { Subjects } from '../../../schemas/subjects.ts';
import type { EventLog } from '../../store/event-log.ts';

/** By directory: whether it was made for the last of them. */
export async function pastMounts(events: EventLog, names: Subjects): Promise<Map<string, boolean>> {
  const made = new Map<string, boolean>();
  for await (const { event } of events.read(names.eventsOf('mount')))
    if (event.type === 'mount.requested') made.set(event.dir, event.made === true);
  return made;
}

/** Removes those of the folders, where mounts have ended, that were made for them. */
export async function removeFolders(
  dirs: readonly string[],
  events: EventLog,
  names: Subjects,
): Promise<void> {
  const made = await pastMounts(events, names);
  for (const dir of dirs) if (made.get(dir) === true) await rmdir(dir).catch(() => {});
}
