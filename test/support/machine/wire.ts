/** Messages as src/bus/connection.ts encodes them, for modules that are loaded before the stand-ins are in place. */
import { Packr } from 'msgpackr';

const packr = new Packr({
  useRecords: false,
  mapsAsObjects: true,
  variableMapSize: true,
  int64AsType: 'number',
});

export const encode = (value: unknown): Buffer => packr.pack(value);
export const decode = <T>(bytes: Uint8Array): T => packr.unpack(bytes) as T;
