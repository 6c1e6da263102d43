-- load.lua - the requests that wrk sends, by rival and workload:
--
--	wrk ... -s load.lua URL -- RIVAL WORKLOAD TOKEN POSITION
--
-- POSITION is what a client that has everything sends back, in the rival's own form. A body is a note of 300 bytes with random text. Ids are
-- random, too, except in updates, where they are u1 to u10000, and in what is sent again.

local rival, workload, token, position
local number, versions = 0, 0
local hex = '0123456789abcdef'
local again

local function random_hex(length)
	local parts = {}

	for i = 1, length / 6 do
		parts[i] = string.format('%06x', math.random(0, 0xffffff))
	end
	return table.concat(parts)
end

-- Notes are cut from a text that is made once: making new text would take the generator longer than the service takes to store it.
local text

local function note()
	local at = math.random(1, #text - 200)

	return string.format('{"title":"%s","text":"%s","tags":["home","later"],"done":false,"priority":%d,"created":"2026-11-22","place":{"lat":52.51627,"lon":13.3777}}',
		string.sub(text, at, at + 23), string.sub(text, at + 24, at + 177), math.random(0, 9))
end

-- A document in the rival's form.
local function document(id, version, is_update)
	if rival == 'pouch' then
		return string.format('{"_id":"%s",%s"clientVersion":%d,"body":%s}', id,
			is_update and string.format('"_rev":"%d-%s",', version, random_hex(30)) or '', version, note())
	elseif rival == 'parse' then
		return string.format('{%s"clientVersion":%d,"body":%s}', is_update and '' or '"docId":"' .. id .. '",', version, note())
	end
	return string.format('{"id":"%s","clientVersion":%d,"body":%s}', id, version, note())
end

local function new_id()
	return random_hex(24) .. string.format('%08x', math.random(0, 0x7fffffff))
end

local function upload(documents, is_update, id)
	local body = table.concat(documents, ',')

	if rival == 'pouch' then
		return wrk.format('POST', '/up/_bulk_docs', nil, (is_update and '{"new_edits":false,"docs":[' or '{"docs":[') .. body .. ']}')
	elseif rival == 'parse' and is_update then
		return wrk.format('PUT', '/parse/classes/Up/' .. id, nil, body)
	elseif rival == 'parse' and #documents == 1 then
		return wrk.format('POST', '/parse/classes/Up', nil, body)
	elseif rival == 'parse' then
		for i = 1, #documents do
			documents[i] = '{"method":"POST","path":"/parse/classes/Up","body":' .. documents[i] .. '}'
		end
		return wrk.format('POST', '/parse/batch', nil, '{"requests":[' .. table.concat(documents, ',') .. ']}')
	end
	return wrk.format('POST', '/Docs?clientId=phone', nil, '[' .. body .. ']')
end

local function new(count)
	local documents = {}

	for i = 1, count do
		documents[i] = document(new_id(), 1)
	end
	return upload(documents)
end

local function update()
	local id = 'u' .. math.random(1, 10000)

	-- Seconds and a counter: higher than anything an earlier run has sent
	versions = versions + 1
	return upload({document(id, (os.time() - 1700000000) * 100000 + versions % 100000, true)}, true, id)
end

local function poll()
	if rival == 'hand' then
		return wrk.format('GET', '/Docs?clientId=laptop&collection=bench%2Fpoll&since=' .. position)
	elseif rival == 'pouch' then
		return wrk.format('GET', '/poll/_changes?include_docs=true&limit=1000&since=' .. position)
	elseif rival == 'parse' then
		return wrk.format('GET', '/parse/classes/Poll?limit=1000&order=updatedAt&where=' .. position)
	end
	return wrk.format('GET', '/Docs/Pull?clientId=laptop&collection=bench%2Fpoll&cursor=' .. position)
end

local workloads = {
	up1 = function() return new(1) end,
	up100 = function() return new(100) end,
	up1000 = function() return new(1000) end,
	update = update,
	resend100 = function()
		if not again then
			again = {}
			for i = 1, 20 do again[i] = new(100) end
		end
		number = number % 20 + 1
		return again[number]
	end,
	poll = poll,
	mixed = function()
		number = number + 1
		if number % 10 == 0 then return new(1) end
		if number % 10 == 5 then return update() end
		return poll()
	end,
}

function init(args)
	rival, workload, token, position = args[1], args[2], args[3], args[4]
	math.randomseed(workload == 'resend100' and 15 or os.time())
	text = random_hex(60000)
	wrk.headers['Content-Type'] = 'application/json'
	if rival == 'parse' then
		wrk.headers['X-Parse-Application-Id'] = 'bench'
		wrk.headers['X-Parse-REST-API-Key'] = 'rest'
	elseif rival ~= 'pouch' then
		wrk.headers['Authorization'] = 'Bearer ' .. token
	end
	if workload == 'resend100' then workloads.resend100() end
end

function request()
	return workloads[workload]()
end

-- One line for measure.py: requests, microseconds, errors, p50, p99
function done(summary, latency)
	local errors = summary.errors

	print(string.format('RESULT %d %d %d %d %d', summary.requests, summary.duration,
		errors.connect + errors.read + errors.write + errors.status + errors.timeout, latency:percentile(50), latency:percentile(99)))
end
