/** sync_file_range(2): the disk begins to write what a writer has written, while the writer continues. */
import { callOffLoop, declare } from './libc.ts';

// fs.h
const SYNC_FILE_RANGE_WRITE = 2;

const syncRange = declare('sync_file_range', ['int', 'int64', 'int64', 'uint32']);

/**
 * Begins to write the dirty pages of `[offset, offset + length)`, so that a later fdatasync has less to wait for. It
 * promises nothing: the caller still needs the fdatasync, which also reports write errors. Resolves when the disk has
 * taken the requests; the descriptor must stay open until then.
 */
export async function beginWriteBack(fd: number, offset: number, length: number): Promise<void> {
  await callOffLoop('sync_file_range', syncRange, fd, offset, length, SYNC_FILE_RANGE_WRITE).catch(() => {});
}
