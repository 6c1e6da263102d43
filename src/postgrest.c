/*-------------------------------------------------------------------------
 *
 * postgrest.c
 *	  What PostgREST says about a request, in settings.
 *
 * They are request.method, request.headers and request.jwt.claims.  If they
 * aren't set, the call doesn't come from PostgREST.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/guc.h"

#include "docsync.h"

/*
 * Does the call come from PostgREST?
 */
bool
docsync_postgrest_is_asking(void)
{
	const char *method = GetConfigOption("request.method", true, false);

	return method != NULL && *method != '\0';
}

/*
 * A header of the request, its name in lower case; NULL if there is none.
 */
text *
docsync_postgrest_header(const char *name)
{
	return docsync_postgrest_field(docsync_postgrest_setting("request.headers"),
								   name);
}

/*
 * A setting that PostgREST derives from the request, as jsonb; NULL if it
 * isn't set, or is the empty string left behind on a reused connection.
 */
Jsonb *
docsync_postgrest_setting(const char *setting)
{
	const char *value = GetConfigOption(setting, true, false);

	if (value == NULL || *value == '\0')
		return NULL;

	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
											  CStringGetDatum(value)));
}

/*
 * A text field of an object; NULL if it isn't there.
 */
text *
docsync_postgrest_field(Jsonb *object, const char *key)
{
	JsonbValue	value;

	if (object == NULL || !JB_ROOT_IS_OBJECT(object) ||
		getKeyJsonValueFromContainer(&object->root, key, strlen(key),
									 &value) == NULL ||
		value.type == jbvNull)
		return NULL;

	if (value.type != jbvString)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\": wrong type", key),
				 errdetail("It is %s.",
						   docsync_value_name(docsync_value_type_of_jsonb(&value)))));

	return cstring_to_text_with_len(value.val.string.val,
									value.val.string.len);
}
