/*-------------------------------------------------------------------------
 *
 * pin.c
 *	  Plans that walk an index, whatever the planner's statistics say.
 *
 * A pinned statement reads what it is about, in order, and can stop early.
 * Left to itself the planner, whose statistics may be of a time when the table
 * was small, would fetch and sort all that comes after a stamp; and the plan
 * is kept.
 *
 * It is the planning that is pinned, whenever and for whatever reason it is
 * done: at first, after an invalidation, for another role's policies, for each
 * execution with plan_cache_mode = force_custom_plan.  Of the paths to the
 * store's tables in the statement only those by an index are kept.  The
 * planner's settings are left alone: to flip them would be to flip them for
 * whatever is run meanwhile, and a function that is called while the plan is
 * made, or executed, would keep the plans of its own statements, or, by a SET
 * clause, the flipped setting.
 *
 * Not all of the planner is reached: the choice between indexes is its own.
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

/* Texts of statements, told by their addresses: plans are kept for good. */
static List *pinned = NIL;

/* Is it one of these that is being planned? */
static bool is_pinning = false;

static PlannedStmt *plan(PLANNER_PARAMETERS);
static void set_rel_pathlist(PlannerInfo *root, RelOptInfo *rel, Index rti,
							 RangeTblEntry *rte);
static bool is_of_store(Oid relation);
static void keep_index_paths(PlannerInfo *root, RelOptInfo *rel);

/* Installs the planner's hooks, which go on to those installed before. */
void
docsync_pin_init(void)
{
	next_planner = planner_hook != NULL ? planner_hook : standard_planner;
	planner_hook = plan;
	next_set_rel_pathlist = set_rel_pathlist_hook;
	set_rel_pathlist_hook = set_rel_pathlist;
}

/*
 * Pins a kept plan, given by the text that the plan cache has it planned with,
 * which lives for as long.
 */
void
docsync_pin_add(const char *query_string)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(TopMemoryContext);

	pinned = lappend(pinned, unconstify(char *, query_string));
	MemoryContextSwitchTo(oldcontext);
}

/*
 * planner_hook.  Functions that are called while a plan is made have plans
 * made of their own, and may fail.
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
	 * It is costed as if it ran to the end, and compiling would take longer
	 * than all it does.
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
	 * Tables in a policy's subquery are none of ours.  And of what has been
	 * proven empty, as where row-level security leaves nothing, PostgreSQL 17
	 * has dropped the conditions: paths made anew would give all rows.
	 */
	if (is_pinning && rte->rtekind == RTE_RELATION && !IS_DUMMY_REL(rel) &&
		is_of_store(rte->relid))
		keep_index_paths(root, rel);
}

/*
 * The statement's caller has opened the store.
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
 * Keeps the paths by an index only, and of these such that come in the order
 * asked for, if there are any.  Where the statement names the rows' places
 * (ctid) it is to go there, whatever else seems to cost as much: if that is by
 * a join, there is no other way then than one after the other.
 */
static void
keep_index_paths(PlannerInfo *root, RelOptInfo *rel)
{
	List	   *paths = rel->pathlist;
	List	   *partial_paths = rel->partial_pathlist;
	List	   *ordered = NIL;
	ListCell   *cell;

	/* Made anew: a table that seems small is as well read from end to end. */
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
