// docsync-client - documents that are available locally, even offline, and synchronised with those of others: README.md.

export { Collection } from './collection.js';
export { Collections } from './collections.js';
export { DELETE } from './conflict.js';
export { BadAnswer, NoAnswer, Refused, VersionsExhausted } from './errors.js';
export { indexedDbStore } from './stores/indexeddb.js';
export { memoryStore } from './stores/memory.js';
