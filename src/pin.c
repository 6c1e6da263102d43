/*-------------------------------------------------------------------------
 *
 * pin.c
 *	  Pinned plans: they walk an index, whatever the statistics say.
 *
 * A pinned statement reads only what it needs, in order, and can stop early.
 * Left to itself, the planner, whose statistics may be from a time when the
 * table was small, would fetch and sort everything after a stamp; and the plan
 * is kept.
 *
 * The planning is what is pinned, whenever and for whatever reason it happens:
 * the first time, after an invalidation, for another role's policies, for each
 * execution with plan_cache_mode = force_custom_plan.  Of the paths to the
 * store's tables in the statement, only those by an index are kept.  The
 * planner's settings are left alone: changing them would change them for
 * everything that runs meanwhile, and a function called while the plan is made
 * or executed would keep plans for its own statements, or, by a SET clause,
 * the changed setting itself.
 *
 * The choice between indexes is still the planner's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "jit/jit.h"
#include "optimizer/paths.h"
#include "optimizer/planner.h"
#include "utils/memutils.h"

#include "docsync.h"

static planner_hook_type next_planner = NULL;
static set_rel_pathlist_hook_type next_set_rel_pathlist = NULL;

/* Query texts, identified by their addresses: the plans are never freed. */
static List *pinned = NIL;

/* Is one of these being planned? */
static bool is_pinning = false;

static PlannedStmt *plan(PLANNER_PARAMETERS);
static void set_rel_pathlist(PlannerInfo *root, RelOptInfo *rel, Index rti,
							 RangeTblEntry *rte);
static bool is_of_store(Oid relation);
static void keep_index_paths(PlannerInfo *root, RelOptInfo *rel);

/* Installs the planner hooks, which call those installed before. */
void
docsync_pin_init(void)
{
	next_planner = planner_hook != NULL ? planner_hook : standard_planner;
	planner_hook = plan;
	next_set_rel_pathlist = set_rel_pathlist_hook;
	set_rel_pathlist_hook = set_rel_pathlist;
}

/*
 * Pins a kept plan, identified by the query text that the plan cache passes to
 * the planner, which lives as long as the plan.
 */
void
docsync_pin_add(const char *query_string)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(TopMemoryContext);

	pinned = lappend(pinned, unconstify(char *, query_string));
	MemoryContextSwitchTo(oldcontext);
}

/*
 * planner_hook.  Functions that are called while a plan is made may need plans
 * of their own, and may fail.
 */
static PlannedStmt *
plan(PLANNER_PARAMETERS)
{
	bool		is_pinned = list_member_ptr(pinned, query_string);
	bool		was_pinning = is_pinning;
	PlannedStmt *result;

	if (!is_pinned && !is_pinning)
		return next_planner(PLANNER_ARGUMENTS);

	is_pinning = is_pinned;
	PG_TRY();
	{
		result = next_planner(PLANNER_ARGUMENTS);
	}
	PG_FINALLY();
	{
		is_pinning = was_pinning;
	}
	PG_END_TRY();

	/*
	 * The plan is costed as if it ran to the end; compiling it would take
	 * longer than running it.
	 */
	if (is_pinned)
		result->jitFlags = PGJIT_NONE;

	return result;
}

/*
 * set_rel_pathlist_hook
 */
static void
set_rel_pathlist(PlannerInfo *root, RelOptInfo *rel, Index rti,
				 RangeTblEntry *rte)
{
	if (next_set_rel_pathlist != NULL)
		next_set_rel_pathlist(root, rel, rti, rte);

	/*
	 * Tables in a policy's subquery are left alone.  So are relations proven
	 * empty, as when row-level security leaves nothing: PostgreSQL 17 has
	 * dropped their conditions, so new paths would return all rows.
	 */
	if (is_pinning && rte->rtekind == RTE_RELATION && !IS_DUMMY_REL(rel) &&
		is_of_store(rte->relid))
		keep_index_paths(root, rel);
}

/*
 * Is a relation one of the store's?  The statement's caller has opened it.
 */
static bool
is_of_store(Oid relation)
{
	const Store *store = docsync_schema_open(STORE_READ);

	for (int i = 0; i < STORE_RELATIONS; i++)
	{
		if (store->relations[i] == relation)
			return true;
	}
	return false;
}

/*
 * Keeps only paths by an index, and of these, if there are any, only those
 * that return rows in the order asked for.  If the statement names the rows'
 * tids, it must use them, whatever else seems to cost as little: with tids
 * from a join, only a nested loop is left then.
 */
static void
keep_index_paths(PlannerInfo *root, RelOptInfo *rel)
{
	List	   *paths = rel->pathlist;
	List	   *partial_paths = rel->partial_pathlist;
	List	   *ordered = NIL;
	ListCell   *cell;

	/*
	 * New paths, since those for a table that seems small may only be for
	 * reading all of it.
	 */
	rel->pathlist = rel->partial_pathlist = NIL;
	create_tidscan_paths(root, rel);
	if (rel->pathlist != NIL)
		return;

	foreach(cell, rel->indexlist)
		lfirst_node(IndexOptInfo, cell)->amhasgetbitmap = false;
	create_index_paths(root, rel);

	foreach(cell, rel->pathlist)
	{
		Path	   *path = (Path *) lfirst(cell);

		if (path->param_info == NULL &&
			pathkeys_contained_in(root->query_pathkeys, path->pathkeys))
			ordered = lappend(ordered, path);
	}
	if (ordered != NIL)
		rel->pathlist = ordered;
	else if (rel->pathlist == NIL)
		rel->pathlist = paths;
	rel->partial_pathlist = rel->pathlist == paths ? partial_paths : NIL;
}
