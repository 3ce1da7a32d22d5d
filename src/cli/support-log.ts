/** A copy of a stretch of the event log without what looks like a secret. The log has none; this makes sure of it. */
import { Packr } from 'msgpackr';
import { LogFileReader, LogFileWriter } from '../replay/log-file.ts';
import { decodeRecord } from '../replay/record.ts';
import type { Mask } from './support-mask.ts';

const packr = new Packr({
  useRecords: false,
  mapsAsObjects: true,
  variableMapSize: true,
  int64AsType: 'number',
});

/** Errors: those of reading FROM, such as `integrity`, and of writing TO. */
export async function copyMasked(from: string, to: string, mask: Mask): Promise<void> {
  const reader = LogFileReader.open(from);
  try {
    const { header, beginning } = reader;
    const state = { ...beginning, state: mask.value(beginning.state) };
    const writer = await LogFileWriter.create(
      to,
      mask.value(header),
      beginning.seq === 0 ? {} : { beginning: state },
    );
    try {
      for (const { records } of reader.frames()) {
        for (const raw of records) {
          const { record, at, strange } = decodeRecord(raw.bytes);
          // What cannot be read cannot be looked through.
          if (strange === 'unreadable') continue;
          await writer.add({ ...raw, bytes: packr.pack(mask.value(record)) }, at ?? 0);
        }
      }
      await writer.finish(mask.value(reader.paths));
    } catch (error) {
      await writer.abandon();
      throw error;
    }
  } finally {
    reader.close();
  }
}
