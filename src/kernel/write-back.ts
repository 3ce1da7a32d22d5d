/** sync_file_range(2): what was written begins its way to the disk while the writer goes on. */
import { callOffLoop, declare } from './libc.ts';

// fs.h
const SYNC_FILE_RANGE_WRITE = 2;

const syncRange = declare('sync_file_range', ['int', 'int64', 'int64', 'uint32']);

/**
 * Begins to write the dirty pages of `[offset, offset + length)`, so that a later fdatasync has less to wait for. It
 * promises nothing: that fdatasync is needed all the same, and says what went wrong. Resolves when the disk has taken the
 * requests; the descriptor must stay open until then.
 */
export async function beginWriteBack(fd: number, offset: number, length: number): Promise<void> {
  await callOffLoop('sync_file_range', syncRange, fd, offset, length, SYNC_FILE_RANGE_WRITE).catch(() => {});
}
