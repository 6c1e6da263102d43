// conflict.js - what onConflict may answer.

/** Instead of a merged body: the document is to be deleted. */
export const DELETE = Symbol('delete');
