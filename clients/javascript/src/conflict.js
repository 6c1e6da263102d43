// conflict.js - a special answer of onConflict.

/** Returned instead of a merged body: the document is to be deleted. */
export const DELETE = Symbol('delete');
