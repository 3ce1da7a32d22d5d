/** The servers of one cluster of NATS, as `--nats` names them. */

/** URLs with commas between; a password may have commas of its own. */
export const serversIn = (text: string): string[] => text.split(/,(?=[a-z]+:\/\/)/i);
